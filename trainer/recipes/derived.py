"""A run's recipe and its original.

`--epochs` and `--lr` always apply to the original: a schedule stretched twice loses the phases that coincide in few
epochs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from common.errors import UsageError
from trainer.recipes.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Derived:
    """`recipe` is `original` with every rate times `factor`, stretched to its epochs.

    rate   the last `--lr`, which made `factor`
    """

    recipe: Recipe
    original: Recipe
    rate: float | None = None
    factor: float = 1.0


def first_rate(recipe: Recipe) -> float:
    return recipe.phase[0].rate


def derived(
    original: Recipe,
    *,
    epochs: int | None,
    rate: float | None,
    begun: Derived | None = None,
    rate_now: Callable[[Recipe], float] = first_rate,
) -> Derived:
    """The recipe of a run that resumes from `begun`, or of a new one. Raises UsageError.

    epochs     of the whole run; None: as before
    rate       from here on; None, or the last one again: as before
    rate_now   the rate with which a recipe would continue
    """
    if epochs is None:
        epochs = original.epochs if begun is None else begun.recipe.epochs
    stretched = original.stretched(epochs)
    factor = 1.0
    if begun is not None and rate in (None, begun.rate):
        rate, factor = begun.rate, begun.factor
    elif rate is not None:
        if (now := rate_now(stretched)) == 0:
            raise UsageError(f"--lr {rate:g}: the rate is 0 by now, which nothing raises in proportion; edit --recipe")
        factor = rate / now
    return Derived(stretched.times(factor), original, rate, factor)
