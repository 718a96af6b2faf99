"""Batch filling: at each position its record's image, or another's if that record is corrupt.

With `on_bad_record="replace"` the next sound record of the epoch's order, which wraps around, replaces a corrupt one;
crop, flip and noise stay the position's own.
"""

from time import perf_counter_ns
from typing import NamedTuple

import numpy as np

from common import digest
from common.errors import BadImage, BadRecord
from common.images import jpeg
from common.spec import StreamSpec
from common.wire.slab import SlotBatch
from loader.dataset import Dataset
from loader.workers import sampler
from loader.workers.augment import FullBatch, Scratch, TrainingBatch
from loader.workers.kept import KeptImages
from loader.workers.sampler import Records

MOST_TRIED = 1000  # records for one position: so many corrupt ones in a row are no accident
_REMEMBERED = 100_000  # corrupt records

READ, DECODE, AUGMENT = range(3)  # stages

Images = TrainingBatch | FullBatch


class Work(NamedTuple):
    """Work on a batch: time by stage, in whole microseconds, and images decoded."""

    read_us: int
    decode_us: int
    augment_us: int
    decoded: int


class StageTimer:
    """Charges every nanosecond from its making on to one stage; `read_ns` are charged to READ already."""

    def __init__(self, read_ns: int = 0) -> None:
        self._ns = [read_ns, 0, 0]
        self._since_ns = perf_counter_ns()

    def charge(self, stage: int) -> None:
        now_ns = perf_counter_ns()
        self._ns[stage] += now_ns - self._since_ns
        self._since_ns = now_ns

    def work(self, decoded: int) -> Work:
        read, decode, augment = self._ns
        return Work(read // 1000, decode // 1000, augment // 1000, decoded)


class Filler:
    """Fills batches from `dataset`, or with its decoded images that are `kept`, to which it adds."""

    def __init__(self, dataset: Dataset, scratch: Scratch, kept: KeptImages | None = None) -> None:
        self.dataset, self._scratch, self._kept = dataset, scratch, kept
        self._written: list[tuple[int, int]] = []  # record and label of images that the last fill wrote to `kept`
        self._decoded = 0  # by the last fill
        self._reasons: dict[int, str] = {}  # by corrupt record
        self._expecting_ns = 0  # since the last fill

    def expect(self, spec: StreamSpec, epoch: int, first: int, count: int) -> None:
        """Let the disk begin to read the records at these positions, for this process or another."""
        began_ns = perf_counter_ns()
        records = sampler.order_of(spec, self.dataset.records, epoch)[first : first + count]
        if self._kept is not None:
            records = np.array([record for record in records.tolist() if self._kept.label(record) is None], np.uint32)
        self.dataset.advise(records)
        self._expecting_ns += perf_counter_ns() - began_ns

    def fill(
        self, spec: StreamSpec, epoch: int, first: int, batch: SlotBatch, *copies: SlotBatch, digests: bool
    ) -> Work:
        """Fill the whole `batch`, and `copies` of it, with the epoch's positions from `first` on.

        Raises DatasetError, and BadRecord if the stream stops at corrupt records or too many follow each other.
        """
        timer, self._expecting_ns = StageTimer(self._expecting_ns), 0
        order, count = sampler.order_of(spec, self.dataset.records, epoch), len(batch.images)
        records, labels = order[first : first + count].tolist(), []
        self.dataset.find(order[first : first + count])
        timer.charge(READ)
        images = self._images(spec, epoch, first, batch)
        image_digests: list[int] = []
        batch.begin()
        self._decoded, self._written = 0, []
        for index, record in enumerate(records):
            try:
                batch.note_begun(index, record)
                label = self._put(images, index, record, timer)
            except BadImage as error:
                if spec.on_bad_record == "stop":
                    raise BadRecord(record, f"{error}; --on-bad-record replace lets another take its place") from None
                another = self._put_another(batch, images, index, order, first + index, timer)
                if another is None:
                    raise BadRecord(record, f"{error}; and so are too many after it to take its place") from None
                records[index], label = another
                batch.note_replaced(index, record, str(error))
            labels.append(label)
            if digests:  # now, while the pixels are in the cache
                image_digests.append(digest.of_image(batch.images[index], records[index], label))
            for copy in copies:
                copy.images[index] = batch.images[index]
        batch.notes["record"], batch.notes["label"], batch.notes["digest"] = records, labels, image_digests or 0
        for copy in copies:
            copy.notes[:] = batch.notes
        timer.charge(AUGMENT)
        return timer.work(self._decoded)

    def publish(self) -> None:
        """Publish the images that the last fill kept: after it, the dataset proved unchanged."""
        for record, label in self._written:
            assert self._kept is not None
            self._kept.publish(record, label)
        self._written = []

    def _images(self, spec: StreamSpec, epoch: int, first: int, batch: SlotBatch) -> Images:
        if spec.view == "full":
            return FullBatch(batch.images, self._scratch)
        draws = sampler.draws_at(spec, self.dataset.colour, epoch, first, len(batch.images))
        return TrainingBatch(spec, draws, batch.images, self._scratch)

    def _put(self, images: Images, index: int, record: int, timer: StageTimer) -> int:
        """Put the record's image at `index`, and return its label. Raises BadImage."""
        if self._kept is not None and (kept_label := self._kept.label(record)) is not None:
            images.finish(index, self._kept.image(record))
            return kept_label
        if record in self._reasons:
            raise BadImage(self._reasons[record])
        try:
            timer.charge(AUGMENT)
            label, packed = self.dataset.read(record)
            timer.charge(READ)
            rgb = jpeg.decode(packed, images.room(index))
        except BadImage as error:
            timer.charge(DECODE)
            if len(self._reasons) < _REMEMBERED:
                self._reasons[record] = str(error)
            raise
        self._decoded += 1
        if self._kept is not None and self._kept.write(record, rgb):
            self._written.append((record, label))
        timer.charge(DECODE)
        images.finish(index, rgb)
        return label

    def _put_another(
        self, batch: SlotBatch, images: Images, index: int, order: Records, position: int, timer: StageTimer
    ) -> tuple[int, int] | None:
        """Put the image of the next sound record after `position`: its number and label, or None."""
        for ahead in range(1, min(MOST_TRIED, len(order))):
            record = int(order[(position + ahead) % len(order)])
            try:
                batch.note_begun(index, record)
                return record, self._put(images, index, record, timer)
            except BadImage:
                continue
        return None
