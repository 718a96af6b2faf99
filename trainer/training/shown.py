"""Images for TensorBoard: the first layer's filters, and what an epoch begins with."""

from torch import Tensor

from trainer.feeding.data import TrainingData
from trainer.feeding.feed import DeviceBatch
from trainer.network.net import Net
from trainer.recipes.recipe import Recipe
from trainer.training.report import Report

SHOWN = 16  # images of an epoch's first batch


class Shown:
    def __init__(self, net: Net, data: TrainingData, report: Report) -> None:
        self._net, self._data, self._report = net, data, report
        self._epoch: int | None = None  # whose inputs were chosen

    def choose(self, fed: DeviceBatch) -> Tensor | None:
        if not self._report.shows_images or self._epoch == fed.batch.epoch:
            return None
        self._epoch = fed.batch.epoch
        return fed.inputs(self._net)[0][:SHOWN]

    def inputs(self, chosen: Tensor | None, epoch: int) -> None:
        if chosen is not None:
            self._report.inputs(epoch, self._data.visible(chosen, epoch))

    def filters(self, recipe: Recipe, epochs_done: int) -> None:
        if self._report.shows_images:
            weights = self._net.gather()[f"{recipe.conv[0].name}.weight"]
            self._report.filters(epochs_done, weights.numpy(), recipe.columns)
