"""Whatever happens to a checkpoint's bytes is noticed when it is read: no wrong tensor, no other error, no crash."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CheckpointError
from tests.support.checkpoints import STATE
from trainer.checkpoints import checkpoint
from trainer.checkpoints.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint, so that each of its bits can be flipped."""
    torch.manual_seed(1)
    weights = {"conv1.weight": torch.randn(3, 2), "fc8.bias": torch.randn(4)}
    velocities = {name: torch.randn_like(tensor) for name, tensor in weights.items()}
    return checkpoint.save(tmp_path_factory.mktemp("saved"), Checkpoint(STATE, weights, velocities))


@pytest.fixture(scope="module")
def contents(saved: Path) -> bytes:
    return saved.read_bytes()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "checkpoint-00000130.safetensors"


def assert_is_refused(path: Path) -> None:
    with pytest.raises(CheckpointError, match=path.name):
        checkpoint.load(path)


def test_a_bit_that_flips_in_any_byte_is_noticed(contents: bytes, damaged: Path) -> None:
    damaged.write_bytes(contents)
    with damaged.open("r+b", buffering=0) as file:
        for place in range(len(contents)):
            file.seek(place)
            file.write(bytes([contents[place] ^ 1 << place % 8]))
            assert_is_refused(damaged)
            file.seek(place)
            file.write(contents[place : place + 1])
    assert asdict(checkpoint.load(damaged).state)["step"] == STATE.step


def test_every_length_but_its_own_is_noticed(contents: bytes, damaged: Path) -> None:
    for length in range(len(contents)):
        damaged.write_bytes(contents[:length])
        assert_is_refused(damaged)


@given(more=st.binary(min_size=1, max_size=5000))
def test_bytes_too_many_are_noticed(contents: bytes, damaged: Path, more: bytes) -> None:
    damaged.write_bytes(contents + more)
    assert_is_refused(damaged)


@given(length=st.integers(0, 2**64 - 1) | st.integers(0, 3000))
def test_a_header_of_another_length_is_noticed_and_no_memory_taken_for_it(
    contents: bytes, damaged: Path, length: int
) -> None:
    told = length.to_bytes(8, "little")
    damaged.write_bytes(told + contents[8:])
    if told == contents[:8]:
        checkpoint.load(damaged)
    else:
        assert_is_refused(damaged)


@given(data=st.data())
def test_a_stretch_of_other_bytes_is_noticed(contents: bytes, damaged: Path, data: st.DataObject) -> None:
    """A sector of zeros, or of another file."""
    begin = data.draw(st.integers(0, len(contents) - 1))
    size = data.draw(st.integers(1, len(contents) - begin))
    stretch = data.draw(st.just(b"\0" * size) | st.binary(min_size=size, max_size=size))
    changed = contents[:begin] + stretch + contents[begin + size :]
    damaged.write_bytes(changed)
    if changed == contents:
        checkpoint.load(damaged)
    else:
        assert_is_refused(damaged)


def test_what_cannot_be_read_at_all_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-00000001.safetensors"
    assert_is_refused(path)
    path.symlink_to("/proc/self/mem")  # reading its first bytes is an input/output error, as of a bad sector
    assert_is_refused(path)
    path.unlink()
    path.mkdir()
    assert_is_refused(path)
