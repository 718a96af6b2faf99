"""A checkpoint that another version of the program wrote is refused in one line that says what is strange about it."""

import hashlib
import json
from dataclasses import asdict, make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import CheckpointError
from tests.support.checkpoints import STATE, a_checkpoint, flip_a_bit, same_tensors
from tests.support.tiny_run import Train
from trainer.checkpoints import checkpoint
from trainer.checkpoints.checkpoint import Checkpoint
from trainer.checkpoints.resume import newest_whole

WHOLE = asdict(STATE)


def saved(folder: Path, of: Checkpoint, values: dict[str, Any]) -> Path:
    """The checkpoint as a program would have written it whose state has these fields: whole, its digest is right."""
    state: Any = make_dataclass("AnotherState", [(name, Any) for name in values])(**values)
    return checkpoint.save(folder, replace(of, state=state))


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in WHOLE.items() if name not in names}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (without("dataset"), "dataset is missing"),
        (without("recipe", "epoch"), "epoch is missing"),
        (WHOLE | {"momenta": 3}, "momenta: there is no such field; .*"),
        (WHOLE | {"epoch": "two"}, "epoch is 'two'; it is a whole number"),
        (WHOLE | {"step": 130, "first": None}, "first is None; it is a whole number"),
        (WHOLE | {"class_names": None}, "class_names is None; it is a list"),
        (WHOLE | {"class_names": ["cat", 3]}, r"class_names\[1\] is 3; it is a text"),
        (WHOLE | {"recipe": ["source"]}, r"recipe is \['source'\]; it is a table"),
        (WHOLE | {"best_error": "low"}, "best_error is 'low'; it is a number"),
        (WHOLE | {"on_bad_record": "skip"}, "on_bad_record is 'skip'; it is 'replace' or 'stop'"),
    ],
)
def test_a_state_of_another_form_is_one_line_that_names_the_field(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, a_checkpoint(), values)
    with pytest.raises(CheckpointError, match=rf"^{path}: its state is of another version of this program: {message}$"):
        checkpoint.load(path)


def test_what_has_a_default_may_be_missing(tmp_path: Path) -> None:
    path = saved(tmp_path, a_checkpoint(), without("stream", "decoder", "best_error", "epoch_digest", "digests"))
    assert asdict(checkpoint.load(path).state) == asdict(
        checkpoint.load(checkpoint.save(tmp_path, a_checkpoint())).state
    )


def test_one_of_before_november_2026_has_a_blake2_digest(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, a_checkpoint())
    new, contents = checkpoint.load(path), path.read_bytes()
    end = 8 + int.from_bytes(contents[:8], "little")
    header = json.loads(contents[8:end])
    of = header.pop("__metadata__")
    digest = hashlib.blake2b(of["state"].encode(), digest_size=16)
    for name, about in sorted(header.items()):
        begin, stop = about["data_offsets"]
        digest.update(f"{name}|torch.float32|{tuple(about['shape'])}|".encode() + contents[end + begin : end + stop])
    of |= {"format": "alexnet-checkpoint-1", "digest": digest.hexdigest()}
    text = json.dumps({"__metadata__": of, **header}).encode()
    text += b" " * (-len(text) % 8)
    older = tmp_path / "older.safetensors"
    older.write_bytes(len(text).to_bytes(8, "little") + text + contents[end:])
    assert same_tensors(older, path)
    assert checkpoint.load(older).state == new.state
    flip_a_bit(older)
    with pytest.raises(CheckpointError, match="do not match their digest"):
        checkpoint.load(older)


def test_one_of_another_version_is_passed_over_for_an_older_one_that_can_be_read(tmp_path: Path) -> None:
    good = checkpoint.save(tmp_path, a_checkpoint(100))
    saved(tmp_path, a_checkpoint(), without("seed"))
    assert newest_whole(tmp_path).path == good


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"schedule": {}}, "the checkpoint's schedule is of another version"),
        ({"schedule": {"best_error": 0.5, "epochs_without_gain": None, "drops": 1}}, "the checkpoint's schedule is of"),
        ({"tally": {"images": 3}}, "the checkpoint's running sums are of another version"),
        ({"tally": {"images": 3, "waits": {"for_luck": 3}}}, "the checkpoint's running sums are of another version"),
        (
            {"recipe": {"name": "tiny"}},
            "the checkpoint's recipe is of another version of this program: conv is missing",
        ),
    ],
)
def test_a_run_of_another_version_is_not_gone_on_with(train: Train, changed: dict[str, Any], message: str) -> None:
    path = train(steps=1).checkpoint
    whole = checkpoint.load(path)
    saved(path.parent, whole, asdict(whole.state) | changed)
    with pytest.raises(CheckpointError, match=message):
        train(resume=True)
