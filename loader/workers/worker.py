"""A worker process: decodes into slots, or copies from one to others. One thread, no state worth losing.

The pool starts it as `python -m loader.workers.worker FD [CORE]`: FD is its end of the link, CORE the core to stay on.
"""

import contextlib
import os
import socket
import sys
from pathlib import Path
from time import perf_counter_ns

from common.decoder import pixels_of
from common.errors import AlexNetError, BadRecord, DatasetError
from common.images import jpeg
from common.malloc import give_back_large_blocks
from common.wire.slab import Slab, SlotBatch
from loader.dataset import Dataset, FileTouched
from loader.workers import child, link, sampler
from loader.workers.augment import Scratch
from loader.workers.fill import Filler
from loader.workers.kept import KeptImages

_EPOCH_NEARLY_OVER = 0.95


class Worker:
    """Fills slots from the files that the service hands over."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[link.Open, int]] = {}  # by split, with the descriptor
        self._kept: dict[str, KeptImages] = {}
        self._fillers: dict[str, Filler] = {}
        self._slabs: dict[int, Slab] = {}
        self._scratch = Scratch()

    def serve(self, service: socket.socket) -> None:
        link.send(service, link.Ready())
        while (received := link.receive(service)) is not None:
            match received:
                case link.Open() as file, int(fd):
                    self._open(file, fd)
                case link.Keep(split, records), int(fd):
                    self._kept[split] = KeptImages(fd, records)
                case link.Attach(slab, size, slots), int(fd):
                    self._slabs[slab] = Slab(fd, size, slots)
                case link.Detach(slab), _ if slab in self._slabs:
                    self._slabs.pop(slab).close()
                case link.Expect() as expected, _:
                    self._expect(expected)
                case link.Fill() as fill, _:
                    reply = self._fill(fill)
                    link.send(service, reply)
                    if isinstance(reply, link.Filled):
                        self._look_ahead(fill)
                case link.Copy() as copy, _:
                    link.send(service, self._copy(copy))

    def _open(self, file: link.Open, fd: int) -> None:
        """Read from another descriptor, with nothing known: records may lie elsewhere in a file that was touched."""
        if (known := self._files.pop(file.split, None)) is not None:
            os.close(known[1])
        if (filler := self._fillers.pop(file.split, None)) is not None:
            filler.dataset.close()
        self._files[file.split] = file, fd

    def _fill(self, fill: link.Fill) -> link.Filled | link.Touched | link.Failed:
        spec, batches = fill.spec, self._batches(fill)
        try:
            filler = self._filler(spec.split)
            filler.dataset.refuse_changes()  # reading a page of a truncated file would be a SIGBUS
            work = filler.fill(spec, fill.epoch, fill.first, *batches, digests=fill.digests)
            filler.dataset.refuse_changes()
            filler.publish()
        except FileTouched:
            return link.Touched()
        except BadRecord as error:
            return link.Failed(error.record, error.reason)
        except AlexNetError as error:
            return link.Failed(None, str(error))
        return link.Filled(*work)

    def _copy(self, copy: link.Copy) -> link.Filled:
        began_ns = perf_counter_ns()
        source = self._slabs[copy.source.slab].batch(copy.source.slot, copy.spec, copy.count)
        for batch in self._batches(copy):
            batch.images[:], batch.notes[:] = source.images, source.notes
        return link.Filled(0, 0, (perf_counter_ns() - began_ns) // 1000, 0)

    def _batches(self, task: link.Task) -> list[SlotBatch]:
        return [self._slabs[slab].batch(slot, task.spec, task.count) for slab, slot in task.places]

    def _expect(self, expected: link.Expect) -> None:
        with contextlib.suppress(AlexNetError):  # a fill will tell
            filler = self._filler(expected.spec.split)
            filler.expect(expected.spec, expected.epoch, expected.first, expected.count)

    def _look_ahead(self, fill: link.Fill) -> None:
        """Near an epoch's end compute the next one's order, while nobody waits for it."""
        records = self._filler(fill.spec.split).dataset.records
        if fill.first + fill.count > records * _EPOCH_NEARLY_OVER:
            sampler.order_of(fill.spec, records, fill.epoch + 1)

    def _filler(self, split: str) -> Filler:
        if split not in self._fillers:
            file, fd = self._files[split]
            refuse_other_decoder(file.decoder)
            dataset = Dataset(Path(os.fsdecode(file.path)), os.dup(fd), file.version)
            self._fillers[split] = Filler(dataset, self._scratch, self._kept.get(split))
        return self._fillers[split]


def refuse_other_decoder(announced: str) -> None:
    """Raise DatasetError if this process decodes to other pixels: a new libjpeg-turbo may have been installed."""
    if pixels_of(jpeg.decoder()) != pixels_of(announced):
        raise DatasetError(
            f"a worker has another JPEG decoder ({jpeg.decoder()}) than the one announced ({announced}), which makes"
            " other pixels; restart the loader"
        )


def main() -> None:
    service = child.joined()
    if len(sys.argv) > 2:
        os.sched_setaffinity(0, {int(sys.argv[2])})
    give_back_large_blocks()
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            Worker().serve(service)
    except AlexNetError as error:
        link.send(service, link.Failed(None, str(error)))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
