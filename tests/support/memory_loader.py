"""A loader without sockets, behind the seam of `common.client.client.LoaderClient`."""

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from common import digest
from common.client.batch import Batch
from common.client.passes import plan
from common.client.stream_sessions import Loaders
from common.decoder import named
from common.errors import NoSuchSplit
from common.spec import STORED_SIZE, DigestUse, StreamInfo, StreamSpec
from common.wire.slab import Replaced

CLASSES = ("dark", "light", "striped")


class MemoryLoader:
    """Serves drawn images, `train_records` and `val_records` of them (0: no such split).

    specs    of the streams opened
    open     those that were not closed
    on_ask   called with (spec, epoch, position) before each batch; may raise, or send a signal
    bad      (split, position) of corrupt records that were replaced
    """

    def __init__(self, train_records: int = 20, val_records: int = 7, digest: bytes = b"d" * 16) -> None:
        self.records = {"train": train_records, "val": val_records}
        self.digest, self.decoder = digest, named("drawn", "0" * 32)
        self.classes: tuple[str, ...] = CLASSES
        self.specs: list[StreamSpec] = []
        self.open: list[MemoryStream] = []
        self.on_ask: Callable[[StreamSpec, int, int], None] = lambda *_: None
        self.bad: set[tuple[str, int]] = set()

    def stream(
        self, spec: StreamSpec, batch_size: int, *, digests: DigestUse = "off", ranks: int = 1
    ) -> "MemoryStream":
        if self.records[spec.split] == 0:
            raise NoSuchSplit(f"there is no {spec.split} split")
        self.specs.append(spec)
        self.open.append(stream := MemoryStream(self, spec, batch_size, digests))
        return stream

    def __enter__(self) -> "MemoryLoader":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class MemoryStream:
    def __init__(self, loader: MemoryLoader, spec: StreamSpec, batch_size: int, digests: DigestUse) -> None:
        self._loader, self.spec, self.batch_size, self._digests = loader, spec, batch_size, digests
        mean_hwc = np.full((STORED_SIZE, STORED_SIZE, 3), 120, np.float32)
        self.info = StreamInfo(loader.records[spec.split], loader.classes, mean_hwc, loader.digest, loader.decoder)
        self._buffer = np.zeros((batch_size, *spec.image_shape), spec.dtype)

    def batches(
        self,
        epochs: Iterable[int],
        *,
        first: int = 0,
        end: int | None = None,
        lend: bool = False,
        share: tuple[int, int] = (0, 1),
        whole: int | None = None,
    ) -> Iterator[Batch]:
        """Yield batches; a lent one's images are painted over at the next request."""
        end = self.info.records if end is None else min(end, self.info.records)
        whole = self.batch_size * share[1] if whole is None else whole
        for request in plan(itertools.count(), iter(epochs), first, end, whole, share):
            epoch, position, count = request.epoch, request.first, request.count
            self._loader.on_ask(self.spec, epoch, position)
            labels = np.array([(position + k) % len(CLASSES) for k in range(count)], np.int64)
            for k in range(count):
                self._buffer[k] = draw(self.spec, epoch, position + k, int(labels[k]))
            images = self._buffer[:count].view()
            images.flags.writeable = False
            records = np.arange(position, position + count)
            told = None if self._digests == "off" else digest.of_images(images, records.tolist(), labels.tolist())
            places = [at for at in records.tolist() if (self.spec.split, at) in self._loader.bad]
            replaced = [Replaced(at, 1000 + at, "cut off") for at in places]
            batch = Batch(epoch, position, images, labels, records, replaced=replaced, digests=told)
            yield batch if lend else batch.copy()
            self._buffer[:] = 255

    @property
    def loaders(self) -> Loaders:
        return Loaders(hosts=1, workers=1, cores=1, by_socket=0)

    def names(self, records: Iterable[int]) -> list[str]:
        return [f"{self.spec.split}-{record}.jpg" for record in records]

    def close(self) -> None:
        if self in self._loader.open:
            self._loader.open.remove(self)


def draw(spec: StreamSpec, epoch: int, position: int, label: int) -> npt.NDArray[np.uint8]:
    """A function of (spec, epoch, position): noise, darker, lighter or striped."""
    random = np.random.default_rng([spec.seed, epoch if spec.view == "train" else 0, position])
    picture = random.integers(0, 60, spec.image_shape, np.uint8) + np.uint8(100)
    if label == 2:
        picture[::8] += 90
    else:
        picture += np.uint8(90 * label)
    return picture
