"""Learning rates: fixed phases and plateau decay."""

from dataclasses import dataclass, replace

from trainer.checkpoints.state import ScheduleState
from trainer.recipes.recipe import Phase, Recipe


@dataclass(frozen=True, slots=True)
class Outlook:
    """The learning rate of weights in an epoch, and its next change, if any.

    from_epoch   of the next phase with another rate
    patience     further epochs without a lower error until it drops
    """

    rate: float
    from_epoch: int | None
    patience: int | None


class Schedule:
    """Learning rates and colour noise; `state` is all that changes."""

    def __init__(self, recipe: Recipe, state: ScheduleState | None = None) -> None:
        self._recipe = recipe
        self.state = state or ScheduleState()

    def sigma(self, epoch: int) -> float:
        """Standard deviation of the colour noise, in units of each component's own."""
        return self._recipe.current_phase(epoch).sigma

    def rate(self, epoch: int) -> float:
        """Learning rate of weights without a rate of their own."""
        return self._recipe.current_phase(epoch).rate / self._divisor

    def rates(self, epoch: int) -> dict[str, float]:
        """Learning rate of each parameter by its reference name; 0 freezes it."""
        phase = self._recipe.current_phase(epoch)
        divisor, rates = self._divisor, {}
        for layer in self._recipe.layer_names:
            weight_rate, bias_rate = _rates_of(layer, phase)
            rates[f"{layer}.weight"] = weight_rate / divisor
            rates[f"{layer}.bias"] = bias_rate / divisor
        return rates

    @property
    def _divisor(self) -> float:
        return self._recipe.plateau.factor**self.state.drops if self._recipe.plateau else 1.0

    def observe(self, validation_error: float) -> None:
        """Record an epoch's top-1 error; on a plateau the rates drop."""
        plateau, before = self._recipe.plateau, self.state
        if plateau is None:
            return
        without_gain = before.epochs_without_gain + 1
        if validation_error < before.best_error - plateau.threshold:
            self.state = ScheduleState(validation_error, drops=before.drops)
        elif without_gain >= plateau.patience and before.drops < plateau.drops:
            self.state = ScheduleState(before.best_error, drops=before.drops + 1)
        else:
            self.state = replace(before, epochs_without_gain=without_gain)

    def outlook(self, epoch: int) -> Outlook:
        """The rate of `epoch`, if no error is observed before it."""
        recipe, plateau = self._recipe, self._recipe.plateau
        rate = recipe.current_phase(epoch).rate
        later = (phase.first_epoch for phase in recipe.phase if phase.first_epoch > epoch and phase.rate != rate)
        patience = None
        if plateau is not None and self.state.drops < plateau.drops:
            patience = plateau.patience - self.state.epochs_without_gain
        return Outlook(self.rates(epoch)[f"{recipe.fc[-1].name}.weight"], next(later, None), patience)


def _rates_of(layer: str, phase: Phase) -> tuple[float, float]:
    """(weight rate, bias rate) of a layer."""
    weight_rate = phase.layer_rates.get(layer, phase.rate)
    if weight_rate == 0:  # frozen is the whole layer
        return 0.0, 0.0
    return weight_rate, weight_rate if phase.bias_rate is None else phase.bias_rate
