"""A network on its devices, as a command's options ask for it."""

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


def kind_of_net(asked: str | None, recipe: Recipe) -> str:
    """ "halves" or "one-device", as asked or as the recipe allows. Raises UsageError where these do not agree."""
    if recipe.columns == 1 and asked == "halves":
        raise UsageError(f"--net halves: recipe {recipe.name} has one column; --net one-device trains it")
    if recipe.exchange != "same" and asked == "one-device":
        raise UsageError(f"--net one-device: nothing crosses there in {recipe.exchange}, as recipe {recipe.name} wants")
    return asked or ("halves" if recipe.columns == 2 else "one-device")


def placed_net(
    asked: str | None,
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
    """A net with its initial weights; on a CPU this process keeps the memory that it once had.

    asked      as `kind_of_net` takes it; "one-device" takes the first of `devices`
    dtype      of activations
    exchange   how activations cross between two halves, see `trainer.network.peers`; UsageError where nothing crosses
    graphs     whether CUDA graphs are recorded
    training   whether gradients and velocities are to come

    Raises UsageError if the host's memory has no room for it.
    """
    check_room(recipe, devices, dtype, training=training)
    if devices[0].type == "cpu":
        keep_all_blocks()
    if kind_of_net(asked, recipe) == "halves":
        ways = ways_between(devices, exchange)
        return TwoHalves(recipe, seed=seed, devices=devices, dtype=dtype, streams=streams, ways=ways, graphs=graphs)
    if exchange != "auto":
        raise UsageError(f"--exchange {exchange}: --net one-device exchanges nothing; leave one of them out")
    return OneDevice(recipe, seed=seed, device=devices[0], dtype=dtype, streams=streams, graphs=graphs)


@contextlib.contextmanager
def full_memory_as_error() -> Iterator[None]:
    """A device or a host whose memory is full ends the command in one line, not in a traceback."""
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
