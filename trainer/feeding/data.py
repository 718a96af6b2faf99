"""Which streams a run reads: its training stream, a new one where the colour noise changes, and its validation."""

import logging
from collections.abc import Callable, Iterator
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.client.batch import Batch
from common.client.client import LoaderClient
from common.client.stream import Stream
from common.client.stream_sessions import Loaders
from common.client.waits import WaitClock
from common.errors import NoSuchSplit
from common.spec import DigestUse, OnBadRecord, StreamInfo, StreamSpec
from trainer.device.streams import Streams
from trainer.feeding.feed import FedBatch, Feed, PixelTransform
from trainer.feeding.pinned import Pinned
from trainer.network.net import Net
from trainer.recipes.recipe import Recipe

log = logging.getLogger(__name__)

Breakable = Callable[[Iterator[Batch]], Iterator[Batch]]


class TrainingData:
    """The pictures of one run, as `recipe` and `seed` want them from `epoch` on.

    on_bad_record, digests   as StreamSpec and LoaderClient.stream take them
    `info` says what the training set is, before there is a net; `validates` whether there is a validation set.
    Raises LoaderRefused and LoaderTimeout.
    """

    def __init__(
        self,
        client: LoaderClient,
        recipe: Recipe,
        seed: int,
        epoch: int = 0,
        *,
        on_bad_record: OnBadRecord = "replace",
        digests: DigestUse = "off",
    ) -> None:
        self._client, self._recipe, self._seed = client, recipe, seed
        self._on_bad_record, self._digests = on_bad_record, digests
        self._told: set[tuple[str, int]] = set()  # bad records that were logged, with their split
        self._training_stream = self._open_training(sigma=recipe.current_phase(epoch).sigma)
        self.info: StreamInfo = self._training_stream.info
        self._validation_stream = self._open_validation()
        self.validation_info: StreamInfo | None = self._validation_stream.info if self._validation_stream else None
        self.clock = WaitClock()
        self._feed: Feed | None = None

    @property
    def spec(self) -> StreamSpec:
        """What the training stream is, at the moment."""
        return self._training_stream.spec

    @property
    def loaders(self) -> Loaders:
        """Who serves it."""
        return self._training_stream.loaders

    @property
    def validates(self) -> bool:
        return self._validation_stream is not None

    def stream_name(self, epoch: int, on_bad_record: OnBadRecord | None = None, decoder: str | None = None) -> str:
        """The name of the stream that this epoch's batches are of; or would be, if bad records were met otherwise, or
        under another identity of the same decoder."""
        spec = training_spec(self._recipe, self._seed, self._sigma(epoch), on_bad_record or self._on_bad_record)
        return spec.name(self.info.digest, decoder or self.info.decoder)

    def training(self, net: Net, epoch: int, first: int, breakable: Breakable) -> Iterator[FedBatch]:
        """Batches from position `first` of `epoch` to the end of the recipe's last epoch.

        `breakable` is put around every wait for the loader.
        """
        for sigma, group in groupby(range(epoch, self._recipe.epochs), self._sigma):
            if sigma != self._training_stream.spec.sigma:
                self._training_stream.close()
                self._training_stream = self._open_training(sigma)
            batches = self._telling("train", self._training_stream.batches(list(group), first=first, lend=True))
            yield from self._feed_of(net).batches(breakable(batches), self._training_scale(sigma))
            first = 0

    def seen(self, x_nchw: Tensor, epoch: int) -> npt.NDArray[np.uint8]:
        """Pictures as the network sees them, n x height x width x 3, of its input in a training step of `epoch`."""
        scale, device = self._training_scale(self._sigma(epoch)), torch.device("cpu")
        return PixelTransform(self.info.mean_hwc, self._recipe.input_shape, scale, device).pictures(x_nchw.cpu())

    def validation(self, net: Net, breakable: Breakable) -> Iterator[FedBatch]:
        """The centres of the validation set's pictures, once."""
        assert self._validation_stream is not None
        batches = self._telling("val", self._validation_stream.batches([0], lend=True))
        return self._feed_of(net).batches(breakable(batches), self._recipe.test_scale)

    def _telling(self, split: str, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Log each bad record the first time that another takes its place."""
        for batch in batches:
            for _, record, reason in batch.replaced:
                if (split, record) not in self._told:
                    self._told.add((split, record))
                    log.warning("record %d of %s is bad, another takes its place: %s", record, split, reason)
            yield batch

    def _feed_of(self, net: Net) -> Feed:
        """The run's one feed, made when there is a net."""
        if self._feed is None:
            mean_hwc, shape = self.info.mean_hwc, self._recipe.input_shape
            self._feed = Feed(net, mean_hwc, shape=shape, clock=self.clock, streams=Streams(), pinned=Pinned())
        return self._feed

    def _training_scale(self, sigma: float) -> float:
        return self._recipe.train_scale if sigma > 0 else self._recipe.test_scale

    def _sigma(self, epoch: int) -> float:
        return self._recipe.current_phase(epoch).sigma

    def _open_training(self, sigma: float) -> Stream:
        spec = training_spec(self._recipe, self._seed, sigma, self._on_bad_record)
        return self._client.stream(spec, self._recipe.batch_size, digests=self._digests)

    def _open_validation(self) -> Stream | None:
        try:
            spec = StreamSpec("val", view="full", on_bad_record=self._on_bad_record)
            return self._client.stream(spec, self._recipe.batch_size, digests=self._digests)
        except NoSuchSplit as refusal:
            log.info("training without validation: %s", refusal)
            return None


def training_spec(recipe: Recipe, seed: int, sigma: float, on_bad_record: OnBadRecord) -> StreamSpec:
    """The stream that a recipe trains on while its colour noise is `sigma`."""
    pixels = recipe.pixels
    return StreamSpec("train", seed, crop=recipe.crop, sigma=sigma, pixels=pixels, on_bad_record=on_bad_record)
