"""A checkpoint with absurd contents, or no checkpoint at all, is one line and exit code 1, with nothing allocated."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from common.errors import AlexNetError, UsageError
from common.host_memory import available_memory
from tests.support.checkpoints import STATE, a_checkpoint
from tests.support.trained_nets import save_net
from trainer.checkpoints import checkpoint, files
from trainer.cli.evaluate_command import main
from trainer.network.build import full_memory_as_error
from trainer.network.memory import check_room
from trainer.recipes.named import SOURCE

CPU = torch.device("cpu")
WHOLE = asdict(STATE)


def evaluated(path: Path) -> Result:
    """Output of alexnet-evaluate; no loader is asked before the checkpoint is read."""
    return CliRunner().invoke(main, [str(path), "--cpu", "--loader", "tcp://127.0.0.1:9", "--loader-timeout", "0.1"])


def refusal(path: Path, code: int = 1) -> str:
    """The one line of stderr, without its beginning."""
    result = evaluated(path)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert len(result.stderr) < 1000
    return result.stderr.removeprefix("alexnet-evaluate: error: ").rstrip("\n")


def with_state(folder: Path, text: str, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    """A file with this state and the right digest, whatever is in it."""
    of = {"weights/fc8.bias": torch.ones(2)} | (tensors or {})
    stored = {name: files.StoredTensor.of(tensor) for name, tensor in of.items()}
    files.write(
        path := folder / "checkpoint-00000001.safetensors", stored, {"format": checkpoint.FORMAT, "state": text}
    )
    return path


def a_pickle(path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, path)


def an_old_pickle(path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("net.pth", a_pickle, "it is a pickle of PyTorch's (.pt, .pth), which is not read: reading one runs the code"),
        ("net.pt", an_old_pickle, "it is a pickle of PyTorch's"),
        ("cat.jpg", lambda path: path.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(200)), "it is no checkpoint"),
        ("empty", lambda path: path.touch(), "it is no checkpoint file"),
        ("endless", lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
        ("fifo", os.mkfifo, "it is no regular file"),
        ("loop", lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
    ],
)
def test_what_is_no_checkpoint_is_called_what_it_is(
    name: str, make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    make(tmp_path / name)
    began_s = time.monotonic()
    line = refusal(tmp_path / name, code=2 if name == "loop" else 1)
    assert name in line
    assert message in line or name == "loop"
    assert time.monotonic() - began_s < 30


def test_a_file_larger_than_the_memory_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "checkpoint-00000001.safetensors").open("wb") as file:
        file.truncate(2 * available_memory())  # a hole
    assert "of memory are free" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"threads": 10**9}, "threads is 1000000000; it is 1 or more, at most 4096"),
        ({"threads": -1}, "threads is -1; it is"),
        ({"seed": 2**64}, "seed is 18446744073709551616; it is"),
        ({"epoch": -1}, "epoch is -1; it is 0 or more"),
        ({"step": 10**400}, "step is 1000"),
        ({"precision": "fp8"}, "precision is 'fp8'; it is 'fp32' or 'tf32' or 'bf16'"),
        ({"epoch_digest": "zz"}, "it has no readable state: non-hexadecimal"),
        ({"rate_factor": 0.0}, "rate_factor is 0.0; it is more than 0"),
        ({"x\n\x1b[31m" * 99: 1}, r"'x\n\x1b[31m"),
        ({"class_names": [[[]] * 10_000]}, "class_names[0] is [[], [], "),
        ({"recipe": {**WHOLE["recipe"], "name": "a\nb"}}, r"name is 'a\nb'; a folder is called so"),
        ({"recipe": {**WHOLE["recipe"], "classes": 3}}, "the checkpoint names 2 classes, its recipe 3"),
        (
            {"recipe": {"name": "tiny"}},
            "the checkpoint's recipe is of another version of this program: conv is missing",
        ),
    ],
)
def test_a_state_of_absurd_values_is_refused_by_name(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refusal(with_state(tmp_path, json.dumps(WHOLE | changed)))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"recipe": ' * 100_000, "", "null", "9" * 5000, "[]"])
def test_a_state_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    assert "state" in refusal(with_state(tmp_path, text))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"mean_hwc": torch.ones(8, 8, 3)}, "its mean image is 8x8x3; it is 256x256x3"),
        ({"mean_hwc": torch.ones(256, 256, 3, dtype=torch.float64)}, "its mean_hwc is of float64; all are of float32"),
        ({"weights/fc7.bias": torch.ones(2, dtype=torch.int64)}, "its weights/fc7.bias is of int64"),
        ({"a\nb": torch.ones(1)}, r"it has a tensor called 'a\nb'"),
        ({"weights/fc7.bias": torch.tensor([1, float("inf")])}, "its weights/fc7.bias is not finite"),
        ({"mean_hwc": torch.full((256, 256, 3), float("nan"))}, "its mean_hwc is not finite"),
    ],
)
def test_tensors_that_this_program_never_writes_are_refused_by_name(
    tensors: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    assert message in refusal(with_state(tmp_path, json.dumps(WHOLE), tensors))


def test_a_recipe_too_wide_for_the_memory_is_refused_before_it_is_allocated() -> None:
    wide = replace(SOURCE, width=16.0)
    with pytest.raises(
        UsageError, match=r"^recipe source at width 16 has [\d,]+ weights, which take [\d,.]+ GiB or more"
    ):
        check_room(wide, (CPU, CPU), torch.float32, training=True)
    check_room(replace(SOURCE, width=0.02), (CPU, CPU), torch.bfloat16, training=True)


def test_memory_that_the_host_has_not_is_one_line() -> None:
    with pytest.raises(AlexNetError, match=r"^memory is full \(can't allocate memory: .*\); try a smaller --batch"):
        with full_memory_as_error():
            torch.empty(1 << 50)
    with pytest.raises(RuntimeError, match="something else"), full_memory_as_error():
        raise RuntimeError("something else")


def test_a_folder_whose_newest_is_spoilt_is_evaluated_by_the_one_before(tmp_path: Path) -> None:
    save_net(tmp_path, ("cat", "dog"), np.ones((256, 256, 3), np.float32), step=1)
    spoilt = a_checkpoint(2)
    spoilt.weights["fc8.bias"][0] = float("nan")
    checkpoint.save(tmp_path, spoilt)
    result = evaluated(tmp_path)
    assert "its weights/fc8.bias is not finite" in result.stderr
    assert "passed over" in result.stderr
    assert "no response from tcp://127.0.0.1:9" in result.stderr, "it went on to the loader"
