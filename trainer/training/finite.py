"""A check of weights before they become a checkpoint."""

from trainer.feeding.feed import DeviceBatch
from trainer.network.net import Net
from trainer.training.together import Together


class FiniteCheck:
    """Tries weights on the batch of the `last` update."""

    def __init__(self, net: Net, together: Together) -> None:
        self._net, self._together = net, together
        self.last: DeviceBatch | None = None
        self._step: int | None = None  # whose weights are known to answer

    def is_known(self, step: int) -> bool:
        return self._step == step

    def note(self, step: int) -> None:
        self._step = step

    def holds(self, step: int) -> bool:
        """True if the weights after `step` answer with numbers on every rank."""
        if not self.is_known(step) and not self._together.agree(self.holds_here()):
            return False
        self.note(step)
        return True

    def holds_here(self) -> bool:
        if self.last is None or len(self.last) == 0:
            return True
        return bool(self._net.predict(self.last.inputs(self._net)).isfinite().all())
