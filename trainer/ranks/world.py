"""The ranks of a run, processes that train one net together, and the small messages between them.

They travel by gloo on the CPU, whatever carries the gradients. Every rank makes the same calls in the same order.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from types import TracebackType

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from common.errors import RankLost, UsageError

ROLL_CALL_S = 2.0  # for the others to say that they are there, once a collective failed
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class World:
    """A run's ranks, seen from one; alone, each call returns at once. Use in a `with` block.

    local_rank, local_ranks   among those of this host
    """

    rank = local_rank = 0
    ranks = local_ranks = 1

    @staticmethod
    def alone() -> "World":
        return World()

    @staticmethod
    def from_environment(timeout_s: float) -> "World":
        """Meet the ranks that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT name; alone if RANK is not set.

        timeout_s   of each call, here and in a group's

        Raises UsageError if a variable is missing or wrong, RankLost if not all ranks come in time.
        """
        if "RANK" not in os.environ or os.environ.get("WORLD_SIZE") == "1":
            return World()
        return _Joined(timeout_s)

    def all_gather(self, numbers: Tensor) -> Tensor:
        """float64 ranks x n: the n numbers of each."""
        return numbers.detach().cpu().double().reshape(1, -1)

    def gather(self, message: bytes) -> list[bytes] | None:
        """All messages by rank, on rank 0; None elsewhere."""
        return [message]

    def broadcast(self, message: bytes, source: int = 0) -> bytes:
        return message

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rank 0's tensors by name, float32 on the CPU."""
        return dict(tensors)

    def new_group(self, device: torch.device) -> dist.ProcessGroup | None:
        """A group for tensors on `device`, NCCL on a GPU, gloo on a CPU; None if alone."""
        return None

    @contextlib.contextmanager
    def collective(self) -> Iterator[None]:
        """Turn the error of a collective into RankLost, which names the ranks that are gone."""
        yield

    def barrier(self) -> None:
        """Wait for all ranks."""

    def close(self) -> None:
        """Leave; others that still wait for this rank fail. Idempotent."""

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.barrier()  # rank 0 has the store: if it left first, the others would fail
        finally:
            self.close()


class _Joined(World):
    def __init__(self, timeout_s: float) -> None:
        self.rank, self.ranks, self.local_rank, self.local_ranks = _places()
        self._timeout, self._is_open = timedelta(seconds=timeout_s), False
        with self.collective():
            self._store, _, _ = next(rendezvous("env://", self.rank, self.ranks, timeout=self._timeout))
            dist.init_process_group(
                "gloo", store=self._store, rank=self.rank, world_size=self.ranks, timeout=self._timeout
            )
            self._is_open = True
            dist.barrier()  # connects all pairs, so that who is missing is known now

    def all_gather(self, numbers: Tensor) -> Tensor:
        mine = super().all_gather(numbers)
        rows = [torch.empty_like(mine) for _ in range(self.ranks)]
        with self.collective():
            dist.all_gather(rows, mine)
        return torch.cat(rows)

    def gather(self, message: bytes) -> list[bytes] | None:
        sizes = self.all_gather(torch.tensor(len(message))).long().flatten().tolist()
        padded = torch.frombuffer(bytearray(message.ljust(max(*sizes, 1), b"\0")), dtype=torch.uint8)
        rows = [torch.empty_like(padded) for _ in sizes] if self.rank == 0 else None
        with self.collective():
            dist.gather(padded, rows)
        if rows is None:
            return None
        return [row[:size].numpy().tobytes() for row, size in zip(rows, sizes, strict=True)]

    def broadcast(self, message: bytes, source: int = 0) -> bytes:
        size = torch.tensor([len(message)])
        with self.collective():
            dist.broadcast(size, source)
            content = bytearray(message if self.rank == source else int(size))
            if content:
                dist.broadcast(torch.frombuffer(content, dtype=torch.uint8), source)
        return bytes(content)

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shapes = json.loads(
            self.broadcast(json.dumps({name: [*each.shape] for name, each in tensors.items()}).encode())
        )
        received = {}
        for name, shape in shapes.items():
            received[name] = tensors[name].contiguous() if self.rank == 0 else torch.empty(shape)
            with self.collective():
                dist.broadcast(received[name], 0)
        return received

    def new_group(self, device: torch.device) -> dist.ProcessGroup | None:
        with self.collective():
            backend = "nccl" if device.type == "cuda" else "gloo"
            group: dist.ProcessGroup = dist.new_group(backend=backend, timeout=self._timeout)
            return group

    @contextlib.contextmanager
    def collective(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo has no type of its own
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            raise RankLost(f"{self._absence()} ({_reason(error)})") from None

    def _absence(self) -> str:
        missing = [str(rank) for rank in self._missing()]
        if not missing:
            return f"rank {self.rank} lost the connection to others"
        return f"rank {self.rank} hears nothing from rank{'s' * (len(missing) > 1)} {', '.join(missing)}"

    def _missing(self) -> list[int]:
        """The ranks not in this call; rank 0 if its store does not answer."""
        others = [rank for rank in range(self.ranks) if rank != self.rank]
        deadline = time.monotonic() + ROLL_CALL_S
        try:
            self._store.set_timeout(timedelta(seconds=ROLL_CALL_S))
            self._store.set(f"roll-call/{self.rank}", "here")
            while others and time.monotonic() < deadline:
                others = [rank for rank in others if not self._store.check([f"roll-call/{rank}"])]
                time.sleep(0.02)
        except (RuntimeError, AttributeError):  # the store is gone, or there never was one
            return [0] if self.rank else others
        return others

    def barrier(self) -> None:
        with self.collective():
            dist.barrier()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            dist.destroy_process_group()


def _places() -> tuple[int, int, int, int]:
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    if missing:
        raise UsageError(f"RANK is set, but not {', '.join(missing)}: a launcher such as torchrun sets all of them")
    rank, ranks = _number("RANK"), _number("WORLD_SIZE")
    if rank >= ranks:
        raise UsageError(f"RANK={rank}: of WORLD_SIZE={ranks} ranks the last is {ranks - 1}")
    return rank, ranks, _number("LOCAL_RANK", "0"), _number("LOCAL_WORLD_SIZE", "1")


def _number(name: str, default: str = "") -> int:
    text = os.environ.get(name, default)
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{name}={text}: it is a number from 0")
    return int(text)


def _reason(error: RuntimeError) -> str:
    """The library's own words, one sentence, without the place in its sources."""
    line = (str(error).splitlines() or [type(error).__name__])[0].partition(". This is typically")[0]
    return line.rpartition("] ")[2] if line.startswith("[") else line
