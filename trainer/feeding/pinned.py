"""Host memory that a GPU reads directly: the loader's slabs, registered with CUDA, and pinned copies of all else.

A slab is registered with its first batch, and unregistered when its last owner, the stream or a leased batch, lets go
of it; only then is it unmapped.
"""

import contextlib
import logging
import warnings
import weakref

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.client.batch import Batch
from common.wire.slab import Slab

log = logging.getLogger(__name__)

_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every GPU, not just the one that was current


class HostMemory:
    def register(self, memory: npt.NDArray[np.uint8], device: torch.device) -> str:
        """Pin the memory in place; return "", or CUDA's reason for refusing."""
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        with torch.cuda.device(device):
            error = runtime.cudaHostRegister(memory.ctypes.data, memory.nbytes, _PORTABLE)
            if error == runtime.cudaError.success:
                return ""
            # CUDA keeps the error for the next check: clear it, or the next training kernel reports it.
            with contextlib.suppress(RuntimeError):
                torch.zeros(1, device=device).neg()
            return str(runtime.cudaGetErrorString(error))

    def unregister(self, memory: npt.NDArray[np.uint8], device: torch.device) -> None:
        with torch.cuda.device(device):
            error = torch.cuda.cudart().cudaHostUnregister(memory.ctypes.data)  # type: ignore[no-untyped-call]
            torch.cuda.check_error(error)

    def pinned_copy(self, host: Tensor) -> Tensor:
        return host.pin_memory()


class Pinned:
    def __init__(self, host_memory: HostMemory | None = None) -> None:
        self._host_memory = host_memory or HostMemory()
        self._registered: weakref.WeakKeyDictionary[Slab, bool] = weakref.WeakKeyDictionary()
        self._said: set[str] = set()

    def images(self, batch: Batch, device: torch.device) -> Tensor:
        """The images in their slot, if it can be registered, else a pinned copy."""
        images = tensor_over(batch.images)
        if batch.slab is not None and self._is_registered(batch.slab, device):
            return images
        return self._host_memory.pinned_copy(images)

    def labels(self, batch: Batch) -> Tensor:
        return self._host_memory.pinned_copy(tensor_over(batch.labels))

    def _is_registered(self, slab: Slab, device: torch.device) -> bool:
        if slab not in self._registered:
            self._registered[slab] = self._register(slab, device)
        return self._registered[slab]

    def _register(self, slab: Slab, device: torch.device) -> bool:
        memory = np.frombuffer(slab.memory, np.uint8)
        refused = self._host_memory.register(memory, device)
        if refused:
            self._say(f"batches are copied to pinned memory: CUDA cannot register the loader's slab ({refused})")
            return False
        self._say("the GPU reads batches in the loader's slab")
        # The finalizer holds a view of the mapping, so that it is unregistered before it is unmapped.
        finalizer = weakref.finalize(slab, self._host_memory.unregister, memory, device)
        finalizer.atexit = False  # then it goes with the process
        return True

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.info(text)


def tensor_over(array: npt.NDArray[np.generic]) -> Tensor:
    """A tensor over the array's memory; torch would warn that it has no read-only kind."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
