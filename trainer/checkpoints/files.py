"""Files that appear whole or not at all, in the safetensors format (github.com/huggingface/safetensors, "Format").

The library only reads them: killed in a write, it leaves a temporary file of its own behind, and it does not say why
the disk refused. Each piece of a tensor is digested and written while it is in the cache; the header gets the digest
last.
"""

import contextlib
import errno
import json
import math
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from common.digest import Hasher
from common.errors import CheckpointError, SaveError
from common.host_memory import available_memory
from trainer.network.memory import gib

PARTIAL = ".partial"
PIECE_BYTES = 1 << 19  # small enough for a core's cache

_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
_READ_BYTES = 1 << 20
_NO_DIGEST = "0" * 32
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save's, of 1.6 and before


Piece = npt.NDArray[np.uint8]


def _at_once() -> None:
    pass


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor to be written; `pieces` gives its bytes in C order, each good until the next."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Piece]]

    @classmethod
    def of(cls, tensor: Tensor) -> "StoredTensor":
        data = bytes_of(tensor.contiguous())
        pieces = [data[first : first + PIECE_BYTES] for first in range(0, len(data), PIECE_BYTES)]
        return cls(tensor.dtype, tuple(tensor.shape), lambda: pieces)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@contextlib.contextmanager
def put_in_place(path: Path, size: int, before_naming: Callable[[], None] = _at_once) -> Iterator[Path]:
    """A `with` block that writes `size` bytes; then they are synced and renamed to `path`.

    before_naming   called between the two; prevents the second by raising

    Raises SaveError if the disk refuses them. Nothing is left behind after an error.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        _sync(partial)
        before_naming()
        partial.replace(path)
        _sync(path.parent)  # the folder, so that the new name survives a power cut too
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise SaveError(f"{path} cannot be written: {reason(error, path.parent, size)}") from None


def reason(error: OSError, folder: Path, size: int) -> str:
    if error.errno != errno.ENOSPC:
        return error.strerror or str(error)
    return f"the disk is full: it takes {_mib(size)}, and {_mib(shutil.disk_usage(folder).free)} are free"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def write(
    path: Path,
    tensors: Mapping[str, StoredTensor],
    metadata: Mapping[str, str],
    before_naming: Callable[[], None] = _at_once,
) -> None:
    """Write tensors, texts, and the digest of tensors and text `state`.

    Raises SaveError, and whatever `pieces` or `before_naming` raise; a previous file at `path` then stays.
    """
    order = _in_order({name: tensor.dtype for name, tensor in tensors.items()})
    size = sum(tensor.nbytes for tensor in tensors.values())
    hasher, header = Hasher(metadata["state"].encode()), _header(tensors, order, metadata, _NO_DIGEST)
    with put_in_place(path, len(header) + size, before_naming) as partial, partial.open("wb", buffering=0) as file:
        _write_all(file, header)
        for name in order:
            hasher.update(_description(name, tensors[name].dtype, tensors[name].shape))
            for piece in tensors[name].pieces():
                hasher.update(piece.data)
                _write_all(file, piece.data)
        file.seek(0)
        _write_all(file, _header(tensors, order, metadata, hasher.hexdigest()))


def digest_of(state: str, tensors: Mapping[str, Tensor]) -> str:
    hasher = Hasher(state.encode())
    for name in _in_order({name: tensor.dtype for name, tensor in tensors.items()}):
        tensor = tensors[name].contiguous()
        hasher.update(_description(name, tensor.dtype, tuple(tensor.shape)))
        hasher.update(bytes_of(tensor).data)
    return hasher.hexdigest()


def _in_order(types: Mapping[str, torch.dtype]) -> list[str]:
    """Names in the file's order, the widest types first, so that each tensor is aligned."""
    return sorted(types, key=lambda name: (-types[name].itemsize, name))


def _description(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> bytes:
    return f"{name}|{dtype}|{shape}|".encode()


def _header(
    tensors: Mapping[str, StoredTensor], order: Iterable[str], metadata: Mapping[str, str], digest: str
) -> bytes:
    header: dict[str, object] = {"__metadata__": {**metadata, "digest": digest}}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": _TYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_all(file: FileIO, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]  # a disk that fills takes a part


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read metadata and tensors. Raises CheckpointError, with the reason alone."""
    try:
        _check_readable(path)
        _read_through(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except OSError as error:
        raise CheckpointError(f"it cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise CheckpointError(_foreign(path) or f"it is damaged: {error}") from None


def bytes_of(tensor: Tensor) -> Piece:
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _check_readable(path: Path) -> None:
    """Raise CheckpointError for a device or a FIFO, which may be endless, and for more than free memory."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError("it is no regular file")
    if status.st_size > (free := available_memory()):
        raise CheckpointError(f"it is of {gib(status.st_size)}, and {gib(free)} of memory are free")


def _foreign(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(_PICKLES):
        return "it is a pickle of PyTorch's (.pt, .pth), which is not read: reading one runs the code in it"
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return None
    return "it is no checkpoint file"


def _read_through(path: Path) -> None:
    """Read the file once: a bad sector is an error here, but SIGBUS in the library's mapping."""
    buffer = bytearray(_READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
