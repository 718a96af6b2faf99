"""Memory for decoded images (`loader/workers/kept.py`), divided among the splits: no more than the host can spare."""

import logging
import time
from collections.abc import Callable, Collection, Mapping

from common.cli.log import RateLimiter
from loader.dataset import Dataset
from loader.service.resources import spare_margin, spare_memory
from loader.service.withdrawal import Withdrawal
from loader.workers.kept import IMAGE_BYTES, KeptImages
from loader.workers.link import Task

log = logging.getLogger(__name__)


class Keeper:
    """Decoded images of `datasets`, `kept` by split, in `limit` bytes of memory at most.

    Splits share it in proportion to their records. At most half of the spare memory is promised at a time, so that
    other programs can grow as fast; none is taken while less than that and `margin` is spare. If none is spare, as much
    is given back as makes `margin` spare again.
    """

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        limit: int,
        spare: Callable[[], int] = spare_memory,
        every_s: float = 0.25,
        margin: int | None = None,
    ) -> None:
        self._spare, self._every_s, self._log_limit = spare, every_s, RateLimiter()
        self._margin = spare_margin() if margin is None else margin
        self._look_at_s, self._growing = 0.0, True
        self._withdrawal: Withdrawal | None = None
        self._records = {split: dataset.records for split, dataset in datasets.items()}
        self._held: dict[str, int] = {}  # images, at the last look
        total = sum(self._records.values())
        images = min(limit // IMAGE_BYTES, total)
        self.kept: dict[str, KeptImages] = {}
        self._allowed = dict.fromkeys(datasets, 0)  # records whose memory workers may take
        try:
            for split, dataset in datasets.items():
                if share := dataset.records * images // total:
                    self.kept[split] = KeptImages.create(share)
        except OSError as error:
            log.warning("decoded images are not kept: %s (--decoded-gib)", error.strerror)
            self.close()
        if self.kept:
            log.info(
                "keeps decoded images of %s of %s records, up to %.3g GiB (--decoded-gib)",
                f"{images:,}", f"{total:,}", images * IMAGE_BYTES / 2**30,
            )  # fmt: skip
        self.look()

    def keeps_all(self, split: str) -> bool:
        """Return True if no image of the split had to be decoded any more when this last looked."""
        return self._held.get(split) == self._records[split]

    def look(self, fills: Collection[Task] = ()) -> None:
        """Allow or stop growth, or give memory back; `fills` are what workers are busy with."""
        if self._withdrawal is None:
            now_s = time.monotonic()
            if not self.kept or now_s < self._look_at_s:
                return
            self._look_at_s = now_s + self._every_s
            try:
                spare = self._spare()
            except OSError as error:  # no descriptor is free
                if self._log_limit.allows("unknown"):
                    log.warning("free memory is unknown: %s; decoded images are kept as before", error.strerror)
                return
            if spare < 2 * self._margin:
                self._look_at_s = now_s + self._every_s / 5
            if spare < 0:
                self._withdrawal = self._begin_to_give_back(self._margin - spare)
            if self._withdrawal is None:
                self._grow(spare - self._margin)
        if self._withdrawal is not None and self._withdrawal.proceed(fills):
            self._withdrawal = None

    def _grow(self, spare: int) -> None:
        self._held = {split: kept.held for split, kept in self.kept.items()}
        if all(self._held[split] == kept.records for split, kept in self.kept.items()):
            return
        promised = sum(max(0, self._allowed[split] * IMAGE_BYTES - kept.taken) for split, kept in self.kept.items())
        growing = spare > promised
        for split, kept in self.kept.items():
            more = min(max(0, spare // 2 - promised) // IMAGE_BYTES, kept.records - self._allowed[split])
            self._allowed[split] += more  # a range of records, for a huge page holds several
            promised += more * IMAGE_BYTES
            kept.allow(self._allowed[split] if growing else 0)
        if growing != self._growing and self._log_limit.allows(f"growing {growing}"):
            log.info(
                "memory is %s: decoded images are kept %s", *(("free", "again") if growing else ("short", "no more"))
            )
        self._growing = growing

    def _begin_to_give_back(self, lacking: int) -> Withdrawal | None:
        """Give back the same share of each split; None if no image is kept."""
        held, self._held = {split: kept.held for split, kept in self.kept.items()}, {}
        total = sum(held.values())
        images = min(-(-lacking // IMAGE_BYTES), total)
        if not images:
            return None
        tails = [(kept, kept.tail(-(-images * held[split] // total))) for split, kept in self.kept.items()]
        self._allowed = dict(zip(self.kept, (first for _, first in tails), strict=True))
        self._growing = False
        if self._log_limit.allows("given back"):
            size = images * IMAGE_BYTES / 2**30
            log.info("memory is short: %.3g GiB of decoded images are given back", size)
        return Withdrawal(tails)

    def close(self) -> None:
        for kept in self.kept.values():
            kept.close()
        self.kept = {}
