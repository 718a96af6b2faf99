"""Agreement before the first step: rank 0's files are everybody's, and all ranks were started alike."""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch

from common.errors import AlexNetError, RankLost, ToldByAnother, UsageError
from trainer.checkpoints.changes import differences
from trainer.checkpoints.checkpoint import checkpoint_of, tensors_of
from trainer.checkpoints.resume import Found
from trainer.checkpoints.state import from_json, to_json
from trainer.ranks.world import World

T = TypeVar("T")


def on_rank_0(world: World, work: Callable[[], T]) -> T | None:
    """The result of `work`, run on rank 0 alone. Its error ends all, as ToldByAnother on the others."""
    if world.rank > 0:
        if (failure := json.loads(world.broadcast(b""))) is not None:
            raise ToldByAnother(*failure)
        return None
    try:
        result = work()
    except Exception as error:
        with contextlib.suppress(RankLost):
            world.broadcast(_failure(error))
        raise
    world.broadcast(_failure(None))
    return result


def on_all_ranks(world: World, work: Callable[[], T]) -> T:
    """The result of `work` here. An error on any rank ends all, as ToldByAnother elsewhere."""
    error = None
    try:
        result = work()
    except AlexNetError as raised:
        error = raised
    for rank, (fails,) in enumerate(world.all_gather(torch.tensor([error is not None])).tolist()):
        if fails:
            raise_for_all(world, rank, error)
    return result


def raise_for_all(world: World, failing: int, error: Exception | None) -> NoReturn:
    """Raise the error of rank `failing`, ToldByAnother with its words elsewhere."""
    failure = world.broadcast(_failure(error), failing)
    if error is not None:
        raise error
    raise ToldByAnother(*json.loads(failure))


def _failure(error: Exception | None) -> bytes:
    return json.dumps(error and [str(error), getattr(error, "exit_code", AlexNetError.exit_code)]).encode()


def path_on_rank_0(world: World, work: Callable[[], Path]) -> Path:
    """As `on_rank_0`, with the result on all ranks."""
    path = on_rank_0(world, work)
    return Path(world.broadcast(str(path).encode()).decode())


def shared(world: World, find: Callable[[], Found | None]) -> Found | None:
    """The checkpoint found on rank 0, whose disk the others need not see."""
    found = on_rank_0(world, find)
    told = world.broadcast(json.dumps(found and [str(found.path), to_json(found.checkpoint.state)]).encode())
    if world.ranks == 1 or (values := json.loads(told)) is None:
        return found
    tensors = world.broadcast_tensors(tensors_of(found.checkpoint) if found else {})
    path, state = values
    return found or Found(checkpoint_of(from_json(state), tensors), Path(path))


def refuse_differences(world: World, facts: Mapping[str, Any]) -> None:
    """Raise UsageError, on rank 0, if a rank has other `facts`."""
    gathered = world.gather(json.dumps(facts).encode())
    on_rank_0(world, lambda: _compare([json.loads(each) for each in gathered or []]))


def _compare(facts: list[Mapping[str, Any]]) -> None:
    for rank, others in enumerate(facts):
        for path, first, other in differences(facts[0], others):
            raise UsageError(
                f"the ranks were started differently: {path} is {json.dumps(first)} on rank 0, {json.dumps(other)} on"
                f" rank {rank}; give all of them the same options, files, versions and dataset"
            )
