"""The options of `alexnet-trainer`, and the recipe they make."""

import dataclasses
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command_line import DEFAULT_TIMEOUT_S
from common.errors import UsageError
from common.spec import DigestUse, OnBadRecord
from trainer.ranks.share import Reduce
from trainer.recipes.ablations import ablated
from trainer.recipes.derived import Derived, derived
from trainer.recipes.named import RECIPES
from trainer.recipes.recipe import Recipe
from trainer.recipes.recipe_file import read

if TYPE_CHECKING:  # it imports torch, which --help need not wait for
    from trainer.device.devices import Precision

DEFAULT_RECIPE = "source"


@dataclass(frozen=True, kw_only=True)  # without slots, so that the defaults can be read off the class
class TrainOptions:
    """The options of `alexnet-trainer`; None: the recipe's own, or on a resume the checkpoint's."""

    gpus: str | None = None
    cpu: bool = False
    net: str | None = None
    precision: "Precision | None" = None
    cuda_graphs: bool = True
    profile: int | None = None
    exchange: str = "auto"
    loaders: tuple[str, ...] = ()
    loaders_file: Path | None = None
    keys: Path | None = None
    recipe: str | None = None
    ablate: tuple[str, ...] = ()
    width: float | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    seed: int | None = None
    data_seed: int | None = None
    rate: float | None = None
    folder: Path | None = None
    resume: bool = False
    init: Path | None = None
    checkpoint_minutes: float = 10.0
    keep: int = 3
    log_steps: int = 10
    tensorboard: bool = False
    loader_timeout_s: float = DEFAULT_TIMEOUT_S
    on_bad_record: OnBadRecord | None = None
    digests: DigestUse | None = None
    threads: int | None = None
    ranks: int = 1
    nodes: int = 1
    rendezvous: str | None = None
    run_id: str | None = None
    gpus_per_rank: int | None = None
    parts: int | None = None
    reduce: Reduce = "ordered"
    rank_timeout_s: float = 120.0
    restarts: int = 3
    resume_if_begun: bool = False

    @property
    def all_ranks(self) -> int:
        return self.ranks * self.nodes


def recipe_of(options: TrainOptions) -> Derived:
    """The recipe of a new run without --init. Raises UsageError."""
    return derived(original_of(options), epochs=options.epochs, rate=options.rate)


def original_of(options: TrainOptions, begun: Recipe | None = None) -> Recipe:
    """The recipe with the options applied except --epochs and --lr. Raises UsageError.

    begun   a checkpoint's, instead of the default; its ablations are not repeated
    """
    if options.recipe is None and begun is not None:
        done = begun.name.split("+")[1:]
        recipe = ablated(begun, [name for name in options.ablate if name not in done])
    else:
        recipe = ablated(_asked_recipe(options.recipe or DEFAULT_RECIPE), options.ablate)
    if options.width is not None:
        recipe = dataclasses.replace(recipe, width=options.width)
    if options.batch_size is not None:
        recipe = dataclasses.replace(recipe, batch_size=options.batch_size)
    return recipe


def _asked_recipe(asked: str) -> Recipe:
    if asked in RECIPES:
        return RECIPES[asked]
    path = Path(asked)
    if path.suffix or len(path.parts) > 1 or path.exists():
        return read(path)
    alike = get_close_matches(asked, RECIPES, n=1)
    meant = f"; {alike[0]} is meant?" if alike else ""
    raise UsageError(f"--recipe {asked}: there are {', '.join(RECIPES)}, and files, FILE.toml{meant}")
