"""Build the network on its devices."""

import contextlib
from collections.abc import Iterator

import torch

from common.errors import AlexNetError, UsageError
from common.malloc import keep_all_blocks
from trainer.device.devices import Devices
from trainer.device.streams import Streams
from trainer.network.memory import check_room
from trainer.network.net import Net
from trainer.network.one_device import OneDevice
from trainer.network.peers import ways_between
from trainer.network.two_halves import TwoHalves
from trainer.recipes.recipe import Recipe


def kind_of_net(requested: str | None, recipe: Recipe) -> str:
    """The net requested, "halves" or "one-device", or the recipe's own. Raises UsageError if the recipe forbids it."""
    if recipe.columns == 1 and requested == "halves":
        raise UsageError(f"--net halves: recipe {recipe.name} has one column; --net one-device trains it")
    if recipe.exchange != "same" and requested == "one-device":
        raise UsageError(f"--net one-device exchanges nothing, but recipe {recipe.name} exchanges {recipe.exchange}")
    return requested or ("halves" if recipe.columns == 2 else "one-device")


def build_net(
    requested: str | None,
    recipe: Recipe,
    *,
    seed: int,
    devices: Devices,
    dtype: torch.dtype,
    streams: Streams,
    exchange: str = "auto",
    graphs: bool = True,
    training: bool = True,
) -> Net:
    """A net with its initial weights. On a CPU freed memory stays with this process from then on.

    exchange   see `trainer.network.peers.ways_between`
    training   count the memory of gradients and velocities too

    Raises UsageError if the host lacks memory, or options contradict each other.
    """
    check_room(recipe, devices, dtype, training=training)
    if devices[0].type == "cpu":
        keep_all_blocks()
    if kind_of_net(requested, recipe) == "halves":
        ways = ways_between(devices, exchange)
        return TwoHalves(recipe, seed=seed, devices=devices, dtype=dtype, streams=streams, ways=ways, graphs=graphs)
    if exchange != "auto":
        raise UsageError(f"--exchange {exchange}: --net one-device exchanges nothing; leave one of them out")
    return OneDevice(recipe, seed=seed, device=devices[0], dtype=dtype, streams=streams, graphs=graphs)


@contextlib.contextmanager
def full_memory_as_error() -> Iterator[None]:
    """Turn a full memory, the device's or the host's, into an AlexNetError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        raise AlexNetError(f"the memory of the device is full ({reason}); try a smaller --batch-size") from None
    except MemoryError as error:
        raise AlexNetError(f"memory is full ({error}); try a smaller --batch-size") from None
    except RuntimeError as error:  # torch has no type of its own for the host
        _, allocator, reason = str(error).partition("DefaultCPUAllocator: ")
        if not allocator:
            raise
        raise AlexNetError(f"memory is full ({reason.partition('. ')[0]}); try a smaller --batch-size") from None
