"""Decoded images that are kept are the same pixels as decoded ones, and only sound ones are."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from common.host_memory import available_memory, memory_size
from common.spec import StreamSpec
from loader.cli.serving import bytes_for_decoded
from loader.dataset import Dataset
from loader.service.keeper import Keeper
from loader.workers import sampler
from loader.workers.augment import Scratch
from loader.workers.fill import Filler
from loader.workers.kept import IMAGE_BYTES, KeptImages
from loader.workers.link import Fill, Place
from tests.support.bad_records import flip_a_bit
from tests.support.one_slot import one_slot

EPOCH, SPEC = 2, StreamSpec(seed=3, crop=64)
SPECS = [
    StreamSpec(seed=3),
    StreamSpec(seed=3, crop=64, sigma=0),
    StreamSpec(seed=3, crop=256, sigma=1),
    StreamSpec(seed=3, crop=9, pixels="float32"),
    StreamSpec(seed=3, view="full", shuffle=False),
    StreamSpec(seed=3, view="full", pixels="float32"),
]


@pytest.fixture
def dataset(packed: Path) -> Iterator[Dataset]:
    with Dataset(packed / "train.lmdb") as dataset:
        yield dataset


@pytest.fixture
def kept(dataset: Dataset) -> Iterator[KeptImages]:
    """Room for half of the images."""
    with closing(KeptImages.create(dataset.records // 2)) as kept:
        kept.allow(kept.records)
        yield kept


def filled(filler: Filler, spec: StreamSpec = SPEC, count: int = 150) -> tuple[bytes, bytes, int]:
    """Pixels and notes of an epoch's first images, and how many were decoded for it."""
    batch = one_slot(spec, count)
    work = filler.fill(spec, EPOCH, 0, batch, digests=True)
    return bytes(batch.pixels), batch.notes.tobytes(), work.decoded


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_kept_images_are_delivered_with_the_bits_of_decoded_ones(
    dataset: Dataset, kept: KeptImages, spec: StreamSpec
) -> None:
    *right, decoded = filled(Filler(dataset, Scratch()), spec, 48)
    assert decoded == 48
    filler, not_kept = Filler(dataset, Scratch(), kept), sampler.order_of(spec, 150, EPOCH)[:48] >= kept.records
    assert 0 < not_kept.sum() < 48 or not spec.shuffle
    for decoded in (48, not_kept.sum()):
        assert filled(filler, spec, 48) == (*right, decoded)
        filler.publish()


def test_images_decoded_for_one_stream_serve_another_and_other_workers(dataset: Dataset, kept: KeptImages) -> None:
    first = Filler(dataset, Scratch(), kept)
    filled(first, SPECS[-2], kept.records)
    first.publish()
    *right, _ = filled(Filler(dataset, Scratch()))
    other = Filler(dataset, Scratch(), KeptImages(kept.fd, kept.records))
    assert filled(other) == (*right, dataset.records - kept.records)


def test_what_a_killed_worker_wrote_is_decoded_again(dataset: Dataset, kept: KeptImages) -> None:
    for record in range(kept.records):
        assert kept.write(record, np.full((256, 256, 3), 7, np.uint8))  # and no more: it was never published
    *right, _ = filled(Filler(dataset, Scratch()))
    assert filled(Filler(dataset, Scratch(), kept)) == (*right, dataset.records)


def test_corrupt_records_are_never_kept(packed: Path, tmp_path: Path, kept: KeptImages) -> None:
    (tmp_path / "train.lmdb").write_bytes((packed / "train.lmdb").read_bytes())
    for record in (0, 5):
        flip_a_bit(tmp_path, record)
    with Dataset(tmp_path / "train.lmdb") as damaged:
        right = filled(Filler(damaged, Scratch()))
        filler = Filler(damaged, Scratch(), kept)
        for _ in range(2):
            assert filled(filler)[:2] == right[:2]
            filler.publish()
    assert kept.missing.tolist() == [0, 5]


def test_no_more_images_are_kept_than_allowed(dataset: Dataset, kept: KeptImages) -> None:
    filler = Filler(dataset, Scratch(), kept)
    for limit, missing in ((0, 75), (20, 55), (0, 55), (25, 50), (75, 0)):
        kept.allow(limit)
        filled(filler)
        filler.publish()
        assert len(kept.missing) == missing


def test_growth_stops_while_memory_is_short(dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    spare = [2 * 20 * IMAGE_BYTES]
    with closing(Keeper({"train": dataset}, 1 << 30, lambda: spare[0], every_s=0, margin=0)) as keeper:
        kept = keeper.kept["train"]
        filler = Filler(dataset, Scratch(), kept)
        for room, missing, told in ((-1, 150, "no more"), (20 * IMAGE_BYTES, 130, "again"), (1 << 30, 0, "again")):
            spare[0] = room
            keeper.look()
            filled(filler)
            filler.publish()
            assert len(kept.missing) == missing
            assert told in caplog.messages[-1]


def test_memory_is_given_back_once_the_fills_that_may_use_it_have_ended(
    dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    spare = [1 << 40]
    old, late, new = (Fill((Place(1, 0),), SPEC, True, EPOCH, 0, 16) for _ in range(3))  # equal, as a retry's
    with closing(Keeper({"train": dataset}, 1 << 30, lambda: spare[0], every_s=0, margin=0)) as keeper:
        kept, filler = keeper.kept["train"], Filler(dataset, Scratch(), keeper.kept["train"])
        *right, _ = filled(filler)
        filler.publish()
        pixels, taken = kept.image(149).copy(), kept.taken

        def look(*fills: Fill) -> tuple[bool, int, bool]:
            """If images can be written afterwards, how many have flags, and if the last one has its memory."""
            keeper.look(fills)
            return kept.write(0, kept.image(0)), kept.held, np.array_equal(kept.image(149), pixels)

        spare[0] = 0
        assert look(old) == (True, 150, True)
        assert keeper.keeps_all("train")
        spare[0] = -50 * IMAGE_BYTES
        assert look(old) == (False, 100, True)
        assert not keeper.keeps_all("train")
        assert look(old, late) == (False, 100, True)  # the old fill may read images, and write them
        kept.publish(149, 0)
        assert look(late, new) == (False, 100, True)  # these may have seen that flag
        assert look(new) == (False, 100, True)
        assert look() == (False, 100, False)
        assert taken - kept.taken == pytest.approx(50 * IMAGE_BYTES, abs=4 << 20)  # a huge page at each end
        assert filled(filler) == (*right, 50)
        assert len(kept.missing) == 50
        spare[0] = 1 << 40
        assert look(new) == (True, 100, False)
        filled(filler)
        filler.publish()
        assert kept.held == 150
        assert not keeper.keeps_all("train")
        keeper.look()
        assert keeper.keeps_all("train")
    assert "memory is short: 0.00916 GiB of decoded images are given back" in caplog.messages


def test_all_memory_is_given_back_if_all_is_lacking(packed: Path) -> None:
    with Dataset(packed / "train.lmdb") as train, Dataset(packed / "val.lmdb") as val:
        spare = [1 << 40]
        with closing(Keeper({"train": train, "val": val}, 1 << 40, lambda: spare[0], 0, 0)) as keeper:
            for dataset in (train, val):
                filler = Filler(dataset, Scratch(), keeper.kept[dataset.split])
                filled(filler, SPEC, 40)
                filler.publish()
            assert {split: kept.held for split, kept in keeper.kept.items()} == {"train": 40, "val": 40}
            for lacking, left in ((40, 20), (1 << 20, 0), (1 << 20, 0)):
                spare[0] = -lacking * IMAGE_BYTES
                keeper.look()
                assert {kept.held for kept in keeper.kept.values()} == {left}


def test_the_splits_share_the_memory_in_proportion(packed: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with Dataset(packed / "train.lmdb") as train, Dataset(packed / "val.lmdb") as val:
        datasets = {"train": train, "val": val}
        with closing(Keeper(datasets, 95 * IMAGE_BYTES)) as keeper:
            assert {split: kept.records for split, kept in keeper.kept.items()} == {"train": 75, "val": 20}
        with closing(Keeper(datasets, 1 << 40)) as keeper:
            assert {split: kept.records for split, kept in keeper.kept.items()} == {"train": 150, "val": 40}
        with closing(Keeper(datasets, IMAGE_BYTES - 1)) as keeper:
            assert not keeper.kept
    assert caplog.messages == [
        f"keeps decoded images of {images} of 190 records, up to {gib} GiB (--decoded-gib)"
        for images, gib in ((95, 0.0174), (190, 0.0348))
    ]


def test_the_option_is_bounded_with_a_word_by_what_can_be_spared(
    packed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert bytes_for_decoded(0, packed) == 0
    assert 0 < bytes_for_decoded(None, packed) <= available_memory() / 4 * 1.1
    assert not caplog.messages
    assert 0 < bytes_for_decoded(2.0**19, packed) < memory_size() * 7 / 8
    assert re.fullmatch(r"--decoded-gib 524288: no more than [0-9.]+ GiB of memory can be spared", caplog.messages[0])
