"""From `--gpus` and `--cpu` to the device of each half."""

import torch

from common.errors import UsageError

HALVES = 2

Devices = tuple[torch.device, torch.device]  # of half 0 and half 1


def devices_of_halves(gpus: str | None, cpu: bool) -> Devices:
    """The devices of half 0 and half 1.

    `gpus` is "0,1" (a half on each), "0" or "0,0" (both on one), None for the first two there are. Raises UsageError
    where there is no such GPU, or none at all and `cpu` was not asked for.
    """
    if cpu and gpus is not None:
        raise UsageError("--cpu and --gpus exclude each other; give one of them")
    if cpu:
        return torch.device("cpu"), torch.device("cpu")
    asked = None if gpus is None else parse_indices(gpus)
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if present == 0:
        raise UsageError("no GPU was found; --cpu computes on the CPU")
    first, second = asked or (0, min(1, present - 1))
    for index in (first, second):
        if index >= present:
            raise UsageError(f"--gpus {gpus}: there is no GPU {index}; {_there_are(present)}")
    return torch.device("cuda", first), torch.device("cuda", second)


def parse_indices(gpus: str) -> tuple[int, int]:
    """Indices of the GPUs of half 0 and half 1 from the text of `--gpus`; raises UsageError on any other form."""
    parts = [part.strip() for part in gpus.split(",")]
    if not 1 <= len(parts) <= HALVES or not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--gpus {gpus!r} is not one or two GPU indices, such as 0,1 or 0 or 0,0")
    return int(parts[0]), int(parts[-1])


def describe(device: torch.device) -> str:
    """A device as a person would name it: `cpu`, or `cuda:0 (NVIDIA H200)`."""
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


def _there_are(present: int) -> str:
    return "the only one is 0" if present == 1 else f"there are 0 to {present - 1}"
