"""A worker process: takes a ticket's positions, fills the slot, says so. One thread, no state worth losing.

Started by the pool as `python -m loader.workers.worker FD [CORE]`; FD is its end of the link, CORE the core to stay on.
It opens nothing by name: the service hands over the files that it announced.
"""

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

from common.cli import console
from common.decoder import pixels_of
from common.errors import AlexNetError, BadRecord, DatasetError
from common.malloc import give_back_large_blocks
from common.wire.slab import Slab
from loader import jpeg
from loader.dataset import Dataset
from loader.parent import die_with_parent
from loader.workers import link, sampler
from loader.workers.augment import Scratch
from loader.workers.fill import Filler
from loader.workers.laps import Laps

_EPOCH_NEARLY_OVER = 0.95


class Worker:
    """Fills slots from the files that the service hands over."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[link.Open, int]] = {}  # by split, with the descriptor
        self._fillers: dict[str, Filler] = {}
        self._slabs: dict[int, Slab] = {}
        self._scratch = Scratch()

    def serve(self, end: socket.socket) -> None:
        """Answer until the service is gone."""
        link.send(end, link.Ready())
        while (received := link.receive(end)) is not None:
            word, fd = received
            if isinstance(word, link.Open):
                assert fd is not None
                self._files[word.split] = word, fd
            elif isinstance(word, link.Attach):
                assert fd is not None
                self._slabs[word.slab] = Slab(fd, word.size, word.slots)
            elif isinstance(word, link.Detach):
                if word.slab in self._slabs:
                    self._slabs.pop(word.slab).close()
            elif isinstance(word, link.Fill):
                link.send(end, outcome := self._fill(word))
                if isinstance(outcome, link.Filled):
                    self._look_ahead(word)

    def _fill(self, word: link.Fill) -> link.Filled | link.Failed:
        spec, laps = word.spec, Laps()
        batch = self._slabs[word.slab].batch(word.slot, spec, word.count)
        try:
            filler = self._filler(spec.split)
            filler.dataset.refuse_changes()  # of a file that was cut off a page may be missing, which would be a SIGBUS
            filler.fill(spec, word.epoch, word.first, batch, digests=word.digests, laps=laps)
            filler.dataset.refuse_changes()
        except BadRecord as error:
            return link.Failed(error.record, error.reason)
        except AlexNetError as error:
            return link.Failed(None, str(error))
        return link.Filled(*laps.us)

    def _look_ahead(self, word: link.Fill) -> None:
        """Near an epoch's end work out the next one's order, while nobody waits for it."""
        records = self._filler(word.spec.split).dataset.records
        if word.first + word.count > records * _EPOCH_NEARLY_OVER:
            sampler.order_of(word.spec, records, word.epoch + 1)

    def _filler(self, split: str) -> Filler:
        if split not in self._fillers:
            file, fd = self._files[split]
            refuse_other_decoder(file.decoder)
            dataset = Dataset(Path(os.fsdecode(file.path)), os.dup(fd), file.version)
            self._fillers[split] = Filler(dataset, self._scratch)
        return self._fillers[split]


def refuse_other_decoder(announced: str) -> None:
    """Raise DatasetError if this process makes other pixels: a new libjpeg-turbo may have been installed meanwhile."""
    if pixels_of(jpeg.decoder()) != pixels_of(announced):
        raise DatasetError(
            f"a worker has another JPEG decoder ({jpeg.decoder()}) than the one announced ({announced}), which makes"
            " other pixels; restart the loader"
        )


def main() -> None:
    console.take_over()
    fd = int(sys.argv[1])
    die_with_parent(os.getppid())
    if len(sys.argv) > 2:
        os.sched_setaffinity(0, {int(sys.argv[2])})
    give_back_large_blocks()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the service's to handle; it ends the link
    end = socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            Worker().serve(end)
    except AlexNetError as error:
        link.send(end, link.Failed(None, str(error)))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
