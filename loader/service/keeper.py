"""Memory for decoded images (`loader/workers/kept.py`), divided among the splits: no more than the host can spare."""

import logging
import time
from collections.abc import Callable, Mapping

from common.cli.log import RateLimiter
from loader.dataset import Dataset
from loader.service.resources import spare_memory
from loader.workers.kept import IMAGE_BYTES, KeptImages

log = logging.getLogger(__name__)


class Keeper:
    """Decoded images of `datasets`, `kept` by split, in `limit` bytes of memory at most.

    Splits share it in proportion to their records. At most half of the spare memory is promised at a time, so that
    other programs can grow as fast; none is taken while less is spare than was promised.
    """

    def __init__(
        self, datasets: Mapping[str, Dataset], limit: int, spare: Callable[[], int] = spare_memory, every_s: float = 1.0
    ) -> None:
        self._spare, self._every_s, self._log_limit = spare, every_s, RateLimiter()
        self._looked_s, self._growing = 0.0, True
        total = sum(dataset.records for dataset in datasets.values())
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

    def look(self) -> None:
        """Allow or stop growth, once a second."""
        now_s = time.monotonic()
        if now_s - self._looked_s < self._every_s:
            return
        self._looked_s = now_s
        if not any(len(kept.missing) for kept in self.kept.values()):
            return
        spare = self._spare()
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

    def close(self) -> None:
        for kept in self.kept.values():
            kept.close()
        self.kept = {}
