"""A run's state as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, TypeVar

from common.client.waits import Waits
from common.errors import CheckpointError, UsageError
from common.spec import DigestUse, OnBadRecord
from trainer.device.devices import Precision
from trainer.recipes.bounds import Range, check_ranges
from trainer.recipes.derived import Derived
from trainer.recipes.recipe import MOST_DROPS, Recipe
from trainer.recipes.recipe_file import object_of

Part = TypeVar("Part")

_COUNT = Range(ge=0, le=2**53)
_OTHER_VERSION = "of another version of this program"
_ADDED = {"came_decoded"}  # fields that older checkpoints lack


@dataclass(slots=True)
class Tally:
    """Sums over the steps of the unfinished epoch.

    loss_sum, error_sum   each batch's mean loss, and share of wrong top-1 answers, times its images
    replaced       corrupt records, in whose place another was trained on
    came_decoded   images that no loader had to decode
    """

    images: int = 0
    loss_sum: float = 0.0
    error_sum: float = 0.0
    seconds: float = 0.0
    waits: Waits = field(default_factory=Waits)
    replaced: int = 0
    came_decoded: int = 0

    def since(self, earlier: "Tally") -> "Tally":
        return Tally(**{sum_.name: getattr(self, sum_.name) - getattr(earlier, sum_.name) for sum_ in fields(self)})

    @property
    def loss(self) -> float:
        return self.loss_sum / max(self.images, 1)

    @property
    def error(self) -> float:
        return self.error_sum / max(self.images, 1)

    @property
    def decoded_share(self) -> float:
        return self.came_decoded / max(self.images, 1)

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds if self.seconds > 0 else 0.0

    @property
    def wait_share(self) -> float:
        return sum(self.wait_shares.values())

    @property
    def wait_shares(self) -> dict[str, float]:
        """Shares of the time waited, by reason, 0 to 1."""
        per_us = 1e-6 / self.seconds if self.seconds > 0 else 0.0
        return {reason: us * per_us for reason, us in asdict(self.waits).items()}


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """Effect of the validation errors so far.

    best_error            lowest top-1 error, a share; infinite before the first
    epochs_without_gain   since it, or since the last drop
    """

    best_error: float = float("inf")
    epochs_without_gain: Annotated[int, _COUNT] = 0
    drops: Annotated[int, Range(ge=0, le=MOST_DROPS)] = 0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class State:
    """All of a run that is not a tensor.

    epoch, first    position of the next batch; `first` equal to the number of records: validation is next
    original, asked_rate, rate_factor   origin of `recipe` (`trainer/recipes/derived.py`); None in older checkpoints
    dataset         digest of the training set in hex
    data_seed       of order and augmentation; None in older checkpoints: `seed`
    threads         of torch on the CPU, in each rank: another number may round differently
    ranks, parts    processes, and parts of a batch: another number of parts rounds differently
    stream, decoder name of the next batch's stream (`StreamSpec.name`), and of the JPEG decoder
    best_error, best_epoch  lowest top-1 validation error so far, a share, and the epoch it was found after
    schedule, tally None in checkpoints of another version of this program: they can be evaluated, not resumed
    epoch_digest    rolling digest of the unfinished epoch in hex; None unless every image had one
    """

    epoch: Annotated[int, _COUNT]
    first: Annotated[int, _COUNT]
    step: Annotated[int, _COUNT]
    seed: Annotated[int, Range(ge=0, le=2**63 - 1)]
    recipe: Recipe
    dataset: str
    class_names: tuple[str, ...]
    threads: Annotated[int, Range(ge=1, le=2**12)]
    data_seed: Annotated[int | None, Range(ge=0, le=2**63 - 1)] = None
    original: Recipe | None = None
    asked_rate: Annotated[float | None, Range(gt=0)] = None
    rate_factor: Annotated[float, Range(gt=0)] = 1.0
    precision: Precision = "fp32"
    stream: str = ""
    decoder: str = ""
    best_error: Annotated[float | None, Range(ge=0, le=1)] = None
    best_epoch: Annotated[int | None, _COUNT] = None
    schedule: ScheduleState | None = None
    tally: Tally | None = None
    on_bad_record: OnBadRecord = "replace"
    digests: DigestUse = "off"
    ranks: Annotated[int, Range(ge=1, le=2**16)] = 1
    parts: Annotated[int, Range(ge=1, le=2**16)] = 1
    epoch_digest: str | None = None

    @property
    def position(self) -> tuple[int, int, int]:
        return self.epoch, self.first, self.step

    @property
    def stream_seed(self) -> int:
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def is_best(self) -> bool:
        """True directly after the best epoch so far."""
        return self.first == 0 and self.best_epoch == self.epoch - 1

    @property
    def derived(self) -> Derived:
        if self.original is None:
            return Derived(self.recipe, self.recipe)
        return Derived(self.recipe, self.original, self.asked_rate, self.rate_factor)


def to_json(state: State) -> str:
    return json.dumps(asdict(state))


def from_json(text: str) -> State:
    """The inverse of `to_json`. Raises CheckpointError, with the reason alone."""
    try:
        values = json.loads(text)
        state = object_of(State, values | _parts(values) if isinstance(values, dict) else values)
        check_ranges(state)
        bytes.fromhex(state.epoch_digest or "")
    except ValueError as error:
        raise CheckpointError(f"it has no readable state: {error}") from None
    except RecursionError:
        raise CheckpointError("it has no readable state: brackets in brackets, without end") from None
    except UsageError as error:
        raise CheckpointError(f"its state is {_OTHER_VERSION}: {error}") from None
    if state.recipe.classes != len(state.class_names):
        raise CheckpointError(
            f"the checkpoint names {len(state.class_names)} classes, its recipe {state.recipe.classes}"
        )
    return state


def check_resumable(state: State) -> None:
    if state.schedule is None:
        raise CheckpointError(f"the checkpoint's schedule is {_OTHER_VERSION}")
    if state.tally is None:
        raise CheckpointError(f"the checkpoint's running sums are {_OTHER_VERSION}")


def _parts(values: Mapping[str, Any]) -> dict[str, Any]:
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    parts: dict[str, Any] = {name: _recipe(tables[name]) for name in ("recipe", "original") if name in tables}
    if "schedule" in tables:
        parts["schedule"] = _whole(ScheduleState, tables["schedule"])
    if "tally" in tables:
        parts["tally"] = _whole(Tally, tables["tally"])
    return parts


def _recipe(values: Mapping[str, Any]) -> Recipe:
    try:
        return object_of(Recipe, values)
    except UsageError as error:
        raise CheckpointError(f"the checkpoint's recipe is {_OTHER_VERSION}: {error}") from None


def _whole(kind: type[Part], values: Mapping[str, Any]) -> Part | None:
    """The object with all its fields, of this version or the one before; None if it has others."""
    try:
        whole = object_of(kind, values)
    except UsageError:
        return None
    return whole if values.keys() | _ADDED == kind.__annotations__.keys() | _ADDED else None
