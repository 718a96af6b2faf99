"""A stream as a torch dataset: `DataLoader(StreamDataset(...), batch_size=None)`."""

import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .cli.command_line import DEFAULT_TIMEOUT_S
from .client.batch import Batch
from .client.client import LoaderClient
from .errors import LoaderError, UsageError
from .ranges import EPOCHS, RANKS, RECORDS, Whole
from .spec import StreamInfo, StreamSpec, one_of

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError("alexnet_client.torch needs torch, which is not installed: pip install torch") from None


def tensors(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, n x 3 x height x width, uint8 or float32, channels-last in memory; labels, int64 n: views."""
    return torch.from_numpy(batch.images).permute(0, 3, 1, 2), torch.from_numpy(batch.labels)


class StreamDataset(IterableDataset[Any]):
    """Batches of a stream, the next epoch with each loop; `len` of an epoch.

    endpoints, loaders_file, keys, timeout_s   as those of LoaderClient
    fields         of StreamSpec, in place of those of `spec`
    batch_size     images of all ranks together
    rank           reads one of `world_size` equal parts of each batch
    drop_last      leave out an epoch's last batch if it is smaller
    transform      makes of a Batch what the loop gets

    Raises what LoaderClient and its `stream` raise; UsageError also if a rank would get no image of some batch.
    """

    batch_sampler = None

    def __init__(
        self,
        endpoints: str | Sequence[str] = (),
        spec: StreamSpec | None = None,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        transform: Callable[[Batch], Any] = tensors,
        loaders_file: str | os.PathLike[str] | None = None,
        keys: str | os.PathLike[str] | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        **fields: Any,
    ) -> None:
        ranks = RANKS.of("world_size", world_size)
        self.batch_size = Whole(1, RECORDS.high).of("batch_size", batch_size)
        if self.batch_size % ranks:
            raise UsageError(
                f"batch_size is {batch_size}, of all ranks together; it is a multiple of world_size, {ranks}"
            )
        self._share = Whole(0, ranks - 1).of("rank", rank), ranks
        self._drop_last, self._transform = one_of("drop_last", drop_last, (True, False)), transform
        self._epoch, self._position = 0, 0
        self._loop: object | None = None  # that asked for a batch last, unless it came to the epoch's end
        spec = replace(spec or StreamSpec(), **fields)
        client = LoaderClient(endpoints, loaders_file=loaders_file, timeout_s=timeout_s, keys=keys)
        self._finalize = weakref.finalize(self, client.close)
        try:
            self._stream = client.stream(spec, self.batch_size // ranks, ranks=ranks)
            self._end = self._end_of_an_epoch()
        except BaseException:
            self.close()
            raise

    def _end_of_an_epoch(self) -> int:
        records = self.info.records
        end = records - records % self.batch_size if self._drop_last else records
        if end == 0:
            raise UsageError(f"an epoch of {records} images has no whole batch of {self.batch_size}: drop_last=False")
        if end % self.batch_size in range(1, self._share[1]):
            raise UsageError(
                f"an epoch's last batch has {end % self.batch_size} images for {self._share[1]} ranks: drop_last=True"
                " leaves it out"
            )
        return end

    @property
    def spec(self) -> StreamSpec:
        return self._stream.spec

    @property
    def info(self) -> StreamInfo:
        return self._stream.info

    @property
    def epoch(self) -> int:
        """The one being read, or to be read next."""
        return self._epoch

    @property
    def sampler(self) -> "StreamDataset":
        return self  # Lightning, if it gets this in place of a DataLoader, calls its sampler's set_epoch

    def __len__(self) -> int:
        return -(-self._end // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Read `epoch` next, from its start or from the place loaded for it."""
        epoch = EPOCHS.of("epoch", epoch)
        if self._loop is not None or epoch != self._epoch:
            self._move(epoch, 0)

    def _move(self, epoch: int, position: int) -> None:
        self._epoch, self._position, self._loop = epoch, position, None

    def _begin(self, loop: object) -> Iterator[Batch]:
        if self._loop is not None:
            self._move(self._epoch + 1, 0)
        self._loop = loop
        return self._stream.batches([self._epoch], first=self._position, end=self._end, share=self._share)

    def state_dict(self) -> dict[str, Any]:
        """The place behind the last batch that a loop got, the same on all ranks."""
        return self._state(self._epoch, self._position)

    def state_at(self, epoch: int, batches: int) -> dict[str, Any]:
        """The place behind so many batches, if the DataLoader reads ahead of the loop."""
        epoch, batches = EPOCHS.of("epoch", epoch), Whole(0, len(self)).of("batches", batches)
        return self._state(epoch, min(batches * self.batch_size, self._end))

    def _state(self, epoch: int, position: int) -> dict[str, Any]:
        name = self.spec.name(self.info.digest, self.info.decoder)
        return {"stream": name, "dataset": self.info.digest.hex(), "epoch": epoch, "position": position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin there. Raises UsageError for another stream's state."""
        ours = self._state(0, 0)
        if not isinstance(state, Mapping) or state.keys() != ours.keys():
            raise UsageError(f"{state!r} is no state of a StreamDataset")
        if state["dataset"] != ours["dataset"]:
            raise UsageError(f"this state is of dataset {state['dataset']}; the loader serves {ours['dataset']}")
        if state["stream"] != ours["stream"]:
            raise UsageError(f"this state is of another StreamSpec than {self.spec}, or of another JPEG decoder")
        position = Whole(0, self.info.records).of("position", state["position"])
        self._move(EPOCHS.of("epoch", state["epoch"]), min(position, self._end))

    def __iter__(self) -> Iterator[Any]:
        if get_worker_info() is not None:
            raise UsageError(
                "a StreamDataset is read with num_workers=0: the loader's own workers decode, ahead of time"
            )
        return _Loop(self)

    def close(self) -> None:
        """Idempotent; garbage collection and exit do it too."""
        self._finalize()

    def __enter__(self) -> "StreamDataset":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise LoaderError(
            "a StreamDataset cannot be pickled or copied: make it in the process that reads, with that one's rank, and"
            " leave its DataLoader at num_workers=0"
        )


class _Loop(Iterator[Any]):
    """One loop, begun by its first `next`; unlike a generator, no error ends it."""

    def __init__(self, dataset: StreamDataset) -> None:
        self._dataset, self._position = dataset, 0
        self._batches: Iterator[Batch] | None = None
        self._token = object()  # the dataset knows it by, without a cycle that would keep both alive

    def __next__(self) -> Any:
        dataset = self._dataset
        if self._batches is None:
            self._batches = dataset._begin(self._token)
            self._position = dataset._position
        batch = next(self._batches, None)
        if batch is None:
            if dataset._loop is self._token:
                dataset._move(dataset._epoch + 1, 0)
            raise StopIteration
        self._position = min(self._position + dataset.batch_size, dataset._end)
        made = dataset._transform(batch)
        if dataset._loop is self._token:
            dataset._position = self._position
        return made
