"""Changes of a resumed run's recipe and settings."""

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import UsageError
from trainer.checkpoints.state import State
from trainer.network.model import reference_shapes
from trainer.recipes.recipe import Recipe

log = logging.getLogger(__name__)

Changes = dict[str, tuple[Any, Any]]  # (before, after) by the field's path, as recipe.phase[1].rate; None: not there

_OF_A_RUN = ("precision", "threads", "ranks", "parts", "on_bad_record", "digests")


def check_fits(recipe: Recipe, stored: Recipe) -> None:
    """Raise UsageError unless both recipes have the same weights."""
    now, then = reference_shapes(recipe), reference_shapes(stored)
    for name in now | then:
        if now.get(name) != then.get(name):
            raise UsageError(
                f"the run to resume does not fit recipe {recipe.name} as asked: its {name} is {by(then.get(name))}, the"
                f" recipe's {by(now.get(name))}; leave out what changes the network, or begin a new run with --init"
            )


def changes_of(before: State, after: State) -> Changes:
    then, now = (
        {"recipe": dataclasses.asdict(state.recipe)} | {name: getattr(state, name) for name in _OF_A_RUN}
        for state in (before, after)
    )
    return {path: change for path, *change in differences(then, now)}  # type: ignore[misc]


def tell(changes: Changes) -> None:
    for path, (before, after) in changes.items():
        log.info("changed: %s %s -> %s", path, json.dumps(before), json.dumps(after))


def by(shape: tuple[int, ...] | None) -> str:
    """`96x3x11x11`, or `missing`."""
    return "missing" if shape is None else "x".join(map(str, shape))


def differences(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The leaves in which two trees of mappings and lists differ; a missing branch is a leaf."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in {**before, **after}:
            yield from differences(before.get(name), after.get(name), f"{path}.{name}" if path else name)
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple):
        for index in range(max(len(before), len(after))):
            then, now = (side[index] if index < len(side) else None for side in (before, after))
            yield from differences(then, now, f"{path}[{index}]")
    elif before != after:
        yield path, before, after
