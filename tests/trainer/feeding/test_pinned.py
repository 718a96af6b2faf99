"""Memory pinned in place or copied; nothing is unmapped while CUDA knows it."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from common.client.batch import Batch
from common.spec import StreamSpec
from common.wire.slab import Slab, slot_bytes
from tests.support.booked_memory import BookedMemory
from trainer.feeding.pinned import Pinned

CPU = torch.device("cpu")
SPEC = StreamSpec(crop=16)


def slab_of(slots: int = 2) -> Slab:
    return Slab.create(slot_bytes(SPEC, 2), slots)


def batch_in(slab: Slab, slot: int = 0) -> Batch:
    images = slab.batch(slot, SPEC, 2).images
    images.flags.writeable = False
    return Batch(0, 0, images, np.arange(2), np.arange(2), slab)


def address_of(batch: Batch) -> int:
    return int(batch.images.ctypes.data)


def mapped() -> int:
    """Slabs in this process's memory."""
    return Path("/proc/self/maps").read_text().count("alexnet-slab")


def test_a_slab_is_registered_once_and_its_batches_are_read_in_their_slots() -> None:
    memory, slab, other = BookedMemory(), slab_of(), slab_of()
    pinned = Pinned(memory)
    for each in (batch_in(slab, 0), batch_in(slab, 1), batch_in(other), batch_in(slab, 0)):
        assert pinned.images(each, CPU).data_ptr() == address_of(each)
    assert memory.registered == [np.frombuffer(each.memory, np.uint8).ctypes.data for each in (slab, other)]


def test_what_lies_in_no_slab_is_copied_and_so_are_labels() -> None:
    memory, batch = BookedMemory(), batch_in(slab_of()).copy()
    pinned = Pinned(memory)
    for copy, array in ((pinned.images(batch, CPU), batch.images), (pinned.labels(batch), batch.labels)):
        assert np.array_equal(copy.numpy(), array)
        assert copy.data_ptr() != array.ctypes.data
    assert memory.asked == 0


def test_a_slab_that_cannot_be_registered_is_copied_from_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = BookedMemory("operation not supported")
    pinned = Pinned(memory)
    slabs = [slab_of(), slab_of()]
    with caplog.at_level(logging.INFO):
        for slab in slabs * 2:
            batch = batch_in(slab)
            images = pinned.images(batch, CPU)
            assert np.array_equal(images.numpy(), batch.images)
            assert images.data_ptr() != address_of(batch)
    assert memory.asked == len(slabs)
    (record,) = caplog.records
    assert "operation not supported" in record.message


def test_a_slab_is_unregistered_when_its_last_batch_goes_and_unmapped_only_then() -> None:
    memory, before = BookedMemory(), mapped()
    pinned, slab = Pinned(memory), slab_of()
    nonce, batch = slab.nonce, batch_in(slab)
    images = pinned.images(batch, CPU)
    slab.close()
    del slab, images
    assert memory.unregistered == []
    batch.release()
    assert [first_bytes for _, first_bytes in memory.unregistered] == [nonce]
    assert memory.registered == []
    assert mapped() == before


def test_a_slab_that_was_closed_is_registered_for_the_batches_still_in_it() -> None:
    memory, slab = BookedMemory(), slab_of()
    batch = batch_in(slab)
    slab.close()
    assert Pinned(memory).images(batch, CPU).data_ptr() == address_of(batch)
    assert len(memory.registered) == 1
