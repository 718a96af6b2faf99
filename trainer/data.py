"""Which streams a run reads: its training stream, a new one where the colour noise changes, and its validation."""

import logging
from collections.abc import Callable, Iterator
from itertools import groupby

from common.batch import Batch
from common.client import LoaderClient
from common.errors import NoSuchSplit
from common.spec import StreamInfo, StreamSpec
from common.stream import Stream
from trainer.feed import FedBatch, Feed, WaitClock
from trainer.net import Net
from trainer.pinned import Pinned
from trainer.recipe import Recipe
from trainer.streams import Streams

log = logging.getLogger(__name__)

Breakable = Callable[[Iterator[Batch]], Iterator[Batch]]


class TrainingData:
    """The pictures of one run, as `recipe` and `seed` want them from `epoch` on.

    `info` says what the training set is, before there is a net; `validates` whether there is a validation set.
    Raises LoaderRefused and LoaderTimeout.
    """

    def __init__(self, client: LoaderClient, recipe: Recipe, seed: int, epoch: int = 0) -> None:
        self._client, self._recipe, self._seed = client, recipe, seed
        self._training_stream = self._open_training(sigma=recipe.phase(epoch).sigma)
        self.info: StreamInfo = self._training_stream.info
        self._validation_stream = self._open_validation()
        self.validation_info: StreamInfo | None = self._validation_stream.info if self._validation_stream else None
        self.clock = WaitClock()
        self._feed: Feed | None = None

    @property
    def validates(self) -> bool:
        return self._validation_stream is not None

    def stream_name(self, epoch: int) -> str:
        """The name of the stream that this epoch's batches are of."""
        return self._training_spec(self._sigma(epoch)).name(self.info.digest, self.info.decoder)

    def training(self, net: Net, epoch: int, first: int, breakable: Breakable) -> Iterator[FedBatch]:
        """Batches from position `first` of `epoch` to the end of the recipe's last epoch.

        `breakable` is put around every wait for the loader.
        """
        for sigma, group in groupby(range(epoch, self._recipe.epochs), self._sigma):
            if sigma != self._training_stream.spec.sigma:
                self._training_stream.close()
                self._training_stream = self._open_training(sigma)
            scale = self._recipe.train_scale if sigma > 0 else self._recipe.test_scale
            batches = breakable(self._training_stream.batches(list(group), first=first))
            yield from self._feed_of(net).batches(batches, scale)
            first = 0

    def validation(self, net: Net, breakable: Breakable) -> Iterator[FedBatch]:
        """The centres of the validation set's pictures, once."""
        assert self._validation_stream is not None
        return self._feed_of(net).batches(breakable(self._validation_stream.batches([0])), self._recipe.test_scale)

    def _feed_of(self, net: Net) -> Feed:
        """The run's one feed, made when there is a net."""
        if self._feed is None:
            crop, mean_hwc = self._recipe.crop, self.info.mean_hwc
            self._feed = Feed(net, mean_hwc, crop=crop, clock=self.clock, streams=Streams(), pinned=Pinned())
        return self._feed

    def _sigma(self, epoch: int) -> float:
        return self._recipe.phase(epoch).sigma

    def _open_training(self, sigma: float) -> Stream:
        return self._client.stream(self._training_spec(sigma), self._recipe.batch_size)

    def _training_spec(self, sigma: float) -> StreamSpec:
        return StreamSpec("train", self._seed, "train", self._recipe.crop, sigma)

    def _open_validation(self) -> Stream | None:
        try:
            return self._client.stream(StreamSpec("val", view="full"), self._recipe.batch_size)
        except NoSuchSplit as refusal:
            log.info("training without validation: %s", refusal)
            return None
