"""Fills a batch: at each position its record's picture, or another's where that record is bad.

The outcome is a function of (data set, stream, epoch, position), like every pixel. With `on_bad_record="replace"` a bad
record's place goes to the next record of the epoch's order that is good, behind the last comes the first, and the
crop, the flip and the noise are the place's own.
"""

from common import digest
from common.errors import BadImage, BadRecord
from common.spec import StreamSpec
from common.wire.slab import SlotBatch
from loader.dataset import Dataset
from loader.workers import sampler
from loader.workers.augment import FullBatch, Scratch, TrainingBatch
from loader.workers.laps import AUGMENT, DECODE, READ, Laps
from loader.workers.sampler import Records

MOST_TRIED = 1000  # records for one place: so many bad ones in a row are no accident
_REMEMBERED = 100_000  # bad records

Pictures = TrainingBatch | FullBatch


class Filler:
    """Fills batches from `dataset`. It remembers which records are bad, and nothing that decides a pixel."""

    def __init__(self, dataset: Dataset, scratch: Scratch) -> None:
        self.dataset, self._scratch = dataset, scratch
        self._reasons: dict[int, str] = {}  # by bad record

    def fill(
        self, spec: StreamSpec, epoch: int, first: int, batch: SlotBatch, *, digests: bool, laps: Laps | None = None
    ) -> None:
        """Positions `first`... of the epoch, as many as `batch` has pictures; `digests` asks for those too.

        laps   is told what the time goes to

        Raises BadRecord where the stream is to stop at bad records, or where there are too many in a row; DatasetError.
        """
        laps = laps or Laps()
        order, count = sampler.order_of(spec, self.dataset.records, epoch), len(batch.images)
        records, labels = order[first : first + count].tolist(), []
        laps.end(READ)
        pictures = self._pictures(spec, epoch, first, batch)
        told: list[int] = []
        batch.begin()
        for index, record in enumerate(records):
            try:
                batch.note_begun(index, record)
                label = self._put(pictures, index, record, laps)
            except BadImage as error:
                if spec.on_bad_record == "stop":
                    raise BadRecord(record, f"{error}; --on-bad-record replace lets another take its place") from None
                another = self._put_another(batch, pictures, index, order, first + index, laps)
                if another is None:
                    raise BadRecord(record, f"{error}; and so are too many after it to take its place") from None
                records[index], label = another
                batch.note_replaced(index, record, str(error))
            labels.append(label)
            if digests:  # now, while the pixels are in the cache
                told.append(digest.of_image(batch.images[index], records[index], label))
        batch.notes["record"], batch.notes["label"], batch.notes["digest"] = records, labels, told or 0
        laps.end(AUGMENT)

    def _pictures(self, spec: StreamSpec, epoch: int, first: int, batch: SlotBatch) -> Pictures:
        if spec.view == "full":
            return FullBatch(batch.images, self._scratch)
        draws = sampler.draws_at(spec, self.dataset.colour, epoch, first, len(batch.images))
        return TrainingBatch(spec, draws, batch.images, self._scratch)

    def _put(self, pictures: Pictures, index: int, record: int, laps: Laps) -> int:
        """Put the record's picture at `index`; its label. Raises BadImage."""
        if record in self._reasons:
            raise BadImage(self._reasons[record])
        try:
            laps.end(AUGMENT)
            label, jpeg = self.dataset.read(record)
            laps.end(READ)
            pictures.decode(index, jpeg)
            laps.end(DECODE)
        except BadImage as error:
            laps.end(DECODE)
            if len(self._reasons) < _REMEMBERED:
                self._reasons[record] = str(error)
            raise
        pictures.finish(index)
        return label

    def _put_another(
        self, batch: SlotBatch, pictures: Pictures, index: int, order: Records, position: int, laps: Laps
    ) -> tuple[int, int] | None:
        """Put the picture of the next good record after `position`; its number and label, None where all are bad."""
        for ahead in range(1, min(MOST_TRIED, len(order))):
            record = int(order[(position + ahead) % len(order)])
            try:
                batch.note_begun(index, record)
                return record, self._put(pictures, index, record, laps)
            except BadImage:
                continue
        return None
