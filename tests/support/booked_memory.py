"""Host memory whose pinning is only noted, for tests without CUDA."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.feeding.pinned import HostMemory


class BookedMemory(HostMemory):
    """Refuses to register, with `refusal` if it is not empty.

    registered     addresses of pinned memory
    unregistered   addresses and first bytes of what was pinned, as they were then
    """

    def __init__(self, refusal: str = "") -> None:
        self._refusal = refusal
        self.asked = 0
        self.registered: list[int] = []
        self.unregistered: list[tuple[int, bytes]] = []

    def register(self, memory: npt.NDArray[np.uint8], device: torch.device) -> str:
        self.asked += 1
        if not self._refusal:
            self.registered.append(memory.ctypes.data)
        return self._refusal

    def unregister(self, memory: npt.NDArray[np.uint8], device: torch.device) -> None:
        self.registered.remove(memory.ctypes.data)
        self.unregistered.append((memory.ctypes.data, memory[:16].tobytes()))

    def pinned_copy(self, host: Tensor) -> Tensor:
        return host.clone()
