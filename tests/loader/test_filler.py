"""The record at a position is a function of (dataset, stream, epoch, position), with corrupt ones replaced."""

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import digest
from common.errors import BadRecord
from common.images import jpeg
from common.spec import StreamSpec
from common.wire import fields, messages
from common.wire.slab import Replaced, SlotBatch
from loader.dataset import Dataset
from loader.workers import sampler
from loader.workers.augment import Scratch, TrainingBatch
from loader.workers.fill import DECODE, Filler
from loader.workers.sampler import Floats, Records
from tests.support.bad_records import flip_a_bit, with_records
from tests.support.one_slot import one_slot

RECORDS, EPOCH = 150, 4
SPEC = StreamSpec(seed=3, crop=64)
CUT = jpeg.encode(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8), 90)[:4000]


class Stored:
    """A dataset in memory, some of whose records are cut off."""

    def __init__(self, kept: list[tuple[int, bytes]], colour: Floats, bad: Collection[int] = ()) -> None:
        self.records, self.colour = len(kept), colour
        self._kept, self._bad = kept, bad

    def read(self, record: int) -> tuple[int, bytes]:
        label, packed = self._kept[record]
        return label, CUT if record in self._bad else packed

    def find(self, records: Records) -> None:
        """There are no pages."""

    def spoilt(self, bad: Collection[int]) -> "Stored":
        return Stored(self._kept, self.colour, bad)


@pytest.fixture(scope="module")
def sound(packed: Path) -> Stored:
    with Dataset(packed / "train.lmdb") as dataset:
        return Stored([dataset.read(record) for record in range(dataset.records)], dataset.colour)


def filled(dataset: Dataset | Stored, spec: StreamSpec, first: int, count: int, digests: bool = False) -> SlotBatch:
    """A slot that has been used before."""
    batch = one_slot(spec, count)
    batch.images[...] = 77
    batch.notes["reason"], batch.notes["digest"] = b"old", 5
    Filler(dataset, Scratch()).fill(spec, EPOCH, first, batch, digests=digests)  # type: ignore[arg-type]
    return batch


def stands_at(order: list[int], position: int, bad: set[int]) -> int:
    """The definition, written out: the record of the first good place from here on, round the end."""
    return int(next(record for record in order[position:] + order if record not in bad))


@settings(max_examples=25)
@given(st.sets(st.integers(0, RECORDS - 1), max_size=120), st.integers(0, RECORDS - 1), st.booleans())
def test_the_next_good_record_takes_a_bad_ones_place(sound: Stored, bad: set[int], first: int, shuffle: bool) -> None:
    count = min(40, RECORDS - first)
    batch = filled(sound.spoilt(bad), replace(SPEC, shuffle=shuffle), first, count)
    order = sampler.order(RECORDS, SPEC.seed, EPOCH).tolist() if shuffle else list(range(RECORDS))
    records = [stands_at(order, position, bad) for position in range(first, first + count)]
    assert batch.notes["record"].tolist() == records
    assert batch.notes["label"].tolist() == [sound.read(record)[0] for record in records]
    expected = [(position, order[position]) for position in range(first, first + count) if order[position] in bad]
    assert [(place.position, place.record) for place in batch.replaced(first)] == expected
    assert {place.reason for place in batch.replaced(first)} <= {"Premature end of JPEG file"}


def test_the_replacement_has_the_places_own_crop_flip_and_noise(sound: Stored) -> None:
    order = sampler.order(RECORDS, SPEC.seed, EPOCH).tolist()
    bad = {order[10], order[11]}
    batch = filled(sound.spoilt(bad), SPEC, 8, 6)
    draws = sampler.draws_at(SPEC, sound.colour, EPOCH, 8, 6)
    for index, record in enumerate([order[8], order[9], order[12], order[12], order[12], order[13]]):
        top, left = draws.top[index], draws.left[index]
        crop = jpeg.decode(sound.read(record)[1])[top : top + 64, left : left + 64]
        crop = crop[:, ::-1] if draws.flip[index] else crop
        assert np.array_equal(batch.images[index], np.clip(crop + np.rint(draws.offset[index]), 0, 255))


@pytest.mark.parametrize("spec", [SPEC, StreamSpec(seed=3, view="full"), StreamSpec(seed=3, crop=9, pixels="float32")])
def test_the_batch_size_changes_nothing(sound: Stored, spec: StreamSpec) -> None:
    dataset = sound.spoilt(set(range(0, RECORDS, 2)))
    whole = filled(dataset, spec, 0, RECORDS, digests=True)
    for size in (1, 7, 64):
        parts = [filled(dataset, spec, at, min(size, RECORDS - at), digests=True) for at in range(0, RECORDS, size)]
        assert np.array_equal(np.concatenate([part.notes for part in parts]), whole.notes)
        assert np.array_equal(np.concatenate([part.images for part in parts]), whole.images)


def test_digests_are_of_the_pixels_delivered_and_their_record_and_label(sound: Stored) -> None:
    batch = filled(sound, SPEC, 0, 20, digests=True)
    told = batch.notes["digest"].copy()
    records, labels = batch.notes["record"].tolist(), batch.notes["label"].tolist()
    assert np.array_equal(told, digest.of_images(batch.images, records, labels))
    changed = batch.images.copy()
    changed[3, 5, 5, 0] ^= 1
    assert (digest.of_images(changed, records, labels) != told).nonzero()[0].tolist() == [3]
    assert not np.any(digest.of_images(batch.images, [record + 1 for record in records], labels) == told)
    assert not np.any(digest.of_images(batch.images, records, [label + 1 for label in labels]) == told)
    assert not filled(sound, SPEC, 0, 20).notes["digest"].any()


def test_where_the_stream_is_to_stop_the_record_and_the_reason_are_named(sound: Stored) -> None:
    order = sampler.order(RECORDS, SPEC.seed, EPOCH).tolist()
    spoilt = sound.spoilt({order[5]})
    stopping = StreamSpec(seed=3, crop=64, on_bad_record="stop")
    assert filled(spoilt, stopping, 0, 5).notes["record"].tolist() == order[:5]
    with pytest.raises(BadRecord, match=r"Premature end.*--on-bad-record replace") as raised:
        filled(spoilt, stopping, 0, 6)
    assert raised.value.record == order[5]


def test_where_every_record_is_bad_nothing_can_take_their_place(sound: Stored) -> None:
    with pytest.raises(BadRecord, match="Premature end of JPEG file; and so are too many after it"):
        filled(sound.spoilt(set(range(RECORDS))), SPEC, 149, 1)


def test_an_answer_whose_every_place_was_replaced_fits_into_a_header() -> None:
    spec, count = StreamSpec(crop=1), fields.MAX_COUNT
    batch = one_slot(spec, count)
    for index in range(count):
        batch.note_replaced(index, fields.MAX_RECORD, "Corrupt JPEG data: 60 extraneous bytes before marker 0xd9" * 2)
    replaced = batch.replaced(first=fields.MAX_RECORD - count)
    words, took = bytes(4 * count), [fields.MOST_US] * 5
    reply = messages.BatchReply(1, bytes(16), words, words, -1, b"", bytes(8 * count), replaced, took, count)
    told = messages.decode(messages.encode(reply), 1)
    assert isinstance(told, messages.BatchReply)
    assert Replaced(*told.replaced[-1]) == replaced[-1] == (2**32 - 2, 2**32 - 1, "Corrupt JPEG data: 60 extraneous")


def test_a_record_of_another_size_and_one_that_rotted_on_the_disk_are_bad(packed: Path, tmp_path: Path) -> None:
    order = sampler.order(RECORDS, SPEC.seed, EPOCH).tolist()
    small = jpeg.encode(np.zeros((64, 80, 3), np.uint8), 90)
    data = with_records(packed, tmp_path / "data", {order[0]: small})
    flip_a_bit(data, order[2])
    with Dataset(data / "train.lmdb") as dataset:
        batch = filled(dataset, SPEC, 0, 4)
    assert batch.replaced(0) == [
        Replaced(0, order[0], "the image is 80x64, not 256x256"),
        Replaced(2, order[2], "damaged: checksum"),
    ]
    assert batch.notes["record"].tolist() == [order[1], order[1], order[3], order[3]]


@pytest.mark.parametrize("slow", ["read", "decode", "augment"])
def test_the_time_of_a_fill_is_told_by_stage(sound: Stored, monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    def slowly(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            time.sleep(0.005)
            return function(*args, **more)

        return call

    place = {"read": (Stored, "read"), "decode": (jpeg, "decode"), "augment": (TrainingBatch, "finish")}
    monkeypatch.setattr(*place[slow], slowly(getattr(*place[slow])))
    batch, began_ns = one_slot(SPEC, 20), time.perf_counter_ns()
    us = Filler(sound, Scratch()).fill(SPEC, EPOCH, 0, batch, digests=True)  # type: ignore[arg-type]
    by_stage = dict(zip(("read", "decode", "augment"), us[:3], strict=True))
    assert by_stage[slow] == max(by_stage.values())
    assert by_stage[slow] >= 20 * 5000
    assert sum(by_stage.values()) <= (time.perf_counter_ns() - began_ns) / 1000


def test_the_time_that_a_bad_record_takes_is_the_decoders(sound: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = jpeg.decode

    def slow_where_bad(data: bytes, *args: Any, **more: Any) -> Any:
        time.sleep(0.05 if data == CUT else 0)
        return decode(data, *args, **more)

    monkeypatch.setattr(jpeg, "decode", slow_where_bad)
    spoilt = sound.spoilt([sampler.order(RECORDS, SPEC.seed, EPOCH)[0]])
    us = Filler(spoilt, Scratch()).fill(SPEC, EPOCH, 0, one_slot(SPEC, 1), digests=False)  # type: ignore[arg-type]
    assert us[DECODE] >= 50_000
