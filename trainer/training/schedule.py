"""The rates of an epoch: what the recipe fixes, and what the validation error has brought about."""

from dataclasses import dataclass

from common.errors import CheckpointError
from trainer.recipes.recipe import MOST_DROPS, Phase, Recipe


@dataclass(frozen=True, slots=True)
class Outlook:
    """The learning rate of weights in an epoch, and when it is another.

    from_epoch   from which on, as the recipe fixes it; None: for good
    patience     epochs in a row without a lower validation error, after which it drops; None: that changes nothing
    """

    rate: float
    from_epoch: int | None
    patience: int | None


class Schedule:
    """Learning rates and colour noise, epoch by epoch.

    Drops on a plateau are the only state, kept as plain numbers in `state` for a checkpoint.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._best_error = float("inf")
        self._epochs_without_gain = 0
        self._drops = 0

    def sigma(self, epoch: int) -> float:
        """Standard deviation of the colour noise in `epoch`, in units of each component's own; 0 is off."""
        return self._recipe.current_phase(epoch).sigma

    def rate(self, epoch: int) -> float:
        """Learning rate in `epoch` of the weights that no layer's own rate is said of."""
        return self._recipe.current_phase(epoch).rate / self._divisor

    def rates(self, epoch: int) -> dict[str, float]:
        """Learning rate of each parameter by its reference name; 0 means: leave it alone altogether."""
        phase = self._recipe.current_phase(epoch)
        divisor, rates = self._divisor, {}
        for layer in self._recipe.layer_names:
            weight_rate, bias_rate = _rates_of(layer, phase)
            rates[f"{layer}.weight"] = weight_rate / divisor
            rates[f"{layer}.bias"] = bias_rate / divisor
        return rates

    @property
    def _divisor(self) -> float:
        """The divisor of every rate, after the drops so far."""
        return self._recipe.plateau.factor**self._drops if self._recipe.plateau else 1.0

    def observe(self, validation_error: float) -> None:
        """Take note of the top-1 error after an epoch; on a plateau the next epoch's rates drop."""
        plateau = self._recipe.plateau
        if plateau is None:
            return
        if validation_error < self._best_error - plateau.threshold:
            self._best_error, self._epochs_without_gain = validation_error, 0
            return
        self._epochs_without_gain += 1
        if self._epochs_without_gain >= plateau.patience and self._drops < plateau.drops:
            self._drops, self._epochs_without_gain = self._drops + 1, 0

    def outlook(self, epoch: int) -> Outlook:
        """What `epoch` is trained with, if no error is observed before, and how long that stays so."""
        recipe, plateau = self._recipe, self._recipe.plateau
        rate = recipe.current_phase(epoch).rate
        later = (phase.first_epoch for phase in recipe.phase if phase.first_epoch > epoch and phase.rate != rate)
        patience = None
        if plateau is not None and self._drops < plateau.drops:
            patience = plateau.patience - self._epochs_without_gain
        return Outlook(self.rates(epoch)[f"{recipe.fc[-1].name}.weight"], next(later, None), patience)

    @property
    def state(self) -> dict[str, float]:
        return {
            "best_error": self._best_error,
            "epochs_without_gain": self._epochs_without_gain,
            "drops": self._drops,
        }

    @state.setter
    def state(self, state: dict[str, float]) -> None:
        """Raises CheckpointError for one that this class has not made."""
        try:
            self._best_error = float(state["best_error"])
            self._epochs_without_gain = int(state["epochs_without_gain"])
            self._drops = int(state["drops"])
            if not 0 <= self._drops <= MOST_DROPS:
                raise ValueError(self._drops)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise CheckpointError("the checkpoint's schedule is of another version of this program") from None


def _rates_of(layer: str, phase: Phase) -> tuple[float, float]:
    """(weight rate, bias rate) of a layer."""
    weight_rate = phase.layer_rates.get(layer, phase.rate)
    if weight_rate == 0:  # frozen is the whole layer
        return 0.0, 0.0
    return weight_rate, weight_rate if phase.bias_rate is None else phase.bias_rate
