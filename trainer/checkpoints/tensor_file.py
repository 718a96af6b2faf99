"""Safetensors files, which hold tensors and texts, and no code.

A file is the length of its header in bytes (uint64, little endian), the header, and the tensors' bytes without gaps.
The header is JSON: each tensor's type, shape and offsets, and under `__metadata__` texts of ours; spaces fill it to 8
bytes. (github.com/huggingface/safetensors, "Format".) We write it ourselves because the library writes under a name of
its own first, which a kill leaves behind, and does not tell why the disk refused; the library reads it.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from common.errors import CheckpointError
from trainer.checkpoints.disk import put_in_place

_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
_READ_BYTES = 1 << 20


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write contiguous tensors on the CPU. Raises SaveError; then what was there before is there still."""
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
    """Metadata and tensors. Raises CheckpointError, with the reason alone."""
    try:
        _read_through(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except OSError as error:
        raise CheckpointError(f"it cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise CheckpointError(f"it is damaged: {error}") from None


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, not copied."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _read_through(path: Path) -> None:
    """Reading a bad sector is an error; touching it in a mapping, as the library does, kills the process (SIGBUS)."""
    buffer = bytearray(_READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
