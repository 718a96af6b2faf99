"""Files that appear whole or not at all, in the safetensors format (github.com/huggingface/safetensors, "Format").

The library only reads them: killed in a write, it leaves a temporary file of its own behind, and it does not say why
the disk refused.
"""

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from common.errors import CheckpointError, SaveError
from trainer.network.memory import free_memory, gib

PARTIAL = ".partial"

_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
_READ_BYTES = 1 << 20
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save's, of 1.6 and before


@contextlib.contextmanager
def put_in_place(path: Path, size: int) -> Iterator[Path]:
    """A `with` block that writes `size` bytes; then they are synced and renamed to `path`.

    Raises SaveError if the disk refuses them; nothing is left behind then.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)  # the folder, so that the new name survives a power cut too
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
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


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write contiguous CPU tensors. Raises SaveError; then a previous file at `path` is still there."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so that each is aligned
    header: dict[str, object] = {"__metadata__": dict(metadata)}
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
    with put_in_place(path, 8 + len(text) + end) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(bytes_of(tensors[name]))


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


def bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _check_readable(path: Path) -> None:
    """Raise CheckpointError for a device or a FIFO, which may be endless, and for more than free memory."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError("it is no regular file")
    if status.st_size > (free := free_memory()):
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
