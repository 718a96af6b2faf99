"""The streams a run reads: training, reopened whenever the colour noise changes, and validation."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.cli.command_line import DEFAULT_ENDPOINT
from common.client.batch import Batch
from common.client.client import LoaderClient
from common.client.stream import Stream
from common.client.stream_sessions import Loaders
from common.client.waits import WaitClock
from common.errors import LoaderRefused, NoSuchSplit, UsageError
from common.names import told
from common.spec import DigestUse, OnBadRecord, StreamInfo, StreamSpec
from trainer.device.streams import Streams
from trainer.feeding.feed import DeviceBatch, Feed
from trainer.feeding.pinned import Pinned
from trainer.feeding.pixel_transform import PixelTransform, pixel_transforms
from trainer.feeding.record_names import names_of
from trainer.network.net import Net
from trainer.ranks.share import Share
from trainer.recipes.recipe import Recipe

log = logging.getLogger(__name__)


def open_client(
    loaders: Sequence[str],
    loaders_file: Path | None,
    timeout_s: float,
    keys: Path | None,
    patience_s: float = float("inf"),
) -> LoaderClient:
    """A client of `loaders` and of those in the file; without either, of the default endpoint. Raises UsageError."""
    endpoints = loaders or (() if loaders_file else (DEFAULT_ENDPOINT,))
    try:
        return LoaderClient(endpoints, loaders_file=loaders_file, timeout_s=timeout_s, patience_s=patience_s, keys=keys)
    except LoaderRefused as refusal:  # no service was asked yet: the endpoint itself is wrong
        raise UsageError(str(refusal)) from None


class TrainingData:
    """The images of one run, from `epoch` on. Raises LoaderRefused and LoaderTimeout.

    share                    this rank's, of batches of all ranks; None: all of the recipe's batches
    on_bad_record, digests   as LoaderClient.stream takes them
    breakable                put around the source of batches, so that a signal may end a wait
    """

    def __init__(
        self,
        client: LoaderClient,
        recipe: Recipe,
        seed: int,
        epoch: int = 0,
        *,
        share: Share | None = None,
        on_bad_record: OnBadRecord = "replace",
        digests: DigestUse = "off",
        breakable: Callable[[Iterator[Batch]], Iterator[Batch]] = iter,
    ) -> None:
        self._client, self._recipe, self._seed = client, recipe, seed
        self._share = share or Share(recipe.batch_size)
        self._on_bad_record, self._digests = on_bad_record, digests
        self._breakable = breakable
        self._logged: set[tuple[str, int]] = set()  # corrupt records, with their split
        self._training_stream = self._open_training(sigma=recipe.current_phase(epoch).sigma)
        self.info: StreamInfo = self._training_stream.info
        self.validation_info: StreamInfo | None = self._find_validation()
        self.clock = WaitClock()
        self._feed: Feed | None = None

    @property
    def spec(self) -> StreamSpec:
        return self._training_stream.spec

    @property
    def loaders(self) -> Loaders:
        return self._training_stream.loaders

    @property
    def validates(self) -> bool:
        return self.validation_info is not None

    def stream_name(self, epoch: int, on_bad_record: OnBadRecord | None = None, decoder: str | None = None) -> str:
        """This epoch's stream, or one with another `on_bad_record` or decoder."""
        spec = training_spec(self._recipe, self._seed, self._sigma(epoch), on_bad_record or self._on_bad_record)
        return spec.name(self.info.digest, decoder or self.info.decoder)

    def training(self, net: Net, epoch: int, first: int) -> Iterator[DeviceBatch]:
        """Batches from position `first` of `epoch` to the end of the last epoch."""
        for sigma, group in groupby(range(epoch, self._recipe.epochs), self._sigma):
            if sigma != self._training_stream.spec.sigma:
                self._training_stream.close()
                self._training_stream = self._open_training(sigma)
            batches = self._batches(self._training_stream, list(group), first)
            yield from self._fed(net, batches, self._training_scale(sigma))
            first = 0

    def visible(self, x_nchw: Tensor, epoch: int) -> npt.NDArray[np.uint8]:
        """The images, n x height x width x 3, in the network's input."""
        scale, device = self._training_scale(self._sigma(epoch)), torch.device("cpu")
        return PixelTransform(self.info.mean_hwc, self._recipe.input_shape, scale, device).images(x_nchw.cpu())

    def validation(self, net: Net) -> Iterator[DeviceBatch]:
        return self._fed(net, self._validation_batches(), self._recipe.test_scale)

    def validation_cuts(self) -> list[list[slice]]:
        """The parts of each of this rank's validation batches."""
        assert self.validation_info is not None
        share, records = self._share, self.validation_info.records
        return [share.slices(share.whole(first, records)) for first in range(0, records, share.batch_size)]

    def _validation_batches(self) -> Iterator[Batch]:
        with contextlib.closing(self._open_validation()) as stream:  # whose slots are the services' memory
            yield from self._batches(stream, [0])

    def _batches(self, stream: Stream, epochs: list[int], first: int = 0) -> Iterator[Batch]:
        share = self._share
        batches = stream.batches(epochs, first=first, lend=True, share=share.place, whole=share.batch_size)
        return self._logging_replaced(stream, batches)

    def _fed(self, net: Net, batches: Iterator[Batch], scale: float) -> Iterator[DeviceBatch]:
        if self._feed is None:  # one for the run, made once there is a net
            self._feed = Feed(net, streams=Streams(), pinned=Pinned())
        transforms = pixel_transforms(net, self.info.mean_hwc, self._recipe.input_shape, scale)
        return self._feed.batches(self.clock.timed(self._breakable(batches)), transforms)

    def _logging_replaced(self, stream: Stream, batches: Iterator[Batch]) -> Iterator[Batch]:
        split = stream.spec.split
        for batch in batches:
            for _, record, reason in batch.replaced:
                if (split, record) not in self._logged:
                    self._logged.add((split, record))
                    (name,) = names_of(stream, [record])
                    known = told(record, name)
                    log.warning("record %s of %s is corrupt, another takes its place: %s", known, split, reason)
            yield batch

    def _training_scale(self, sigma: float) -> float:
        return self._recipe.train_scale if sigma > 0 else self._recipe.test_scale

    def _sigma(self, epoch: int) -> float:
        return self._recipe.current_phase(epoch).sigma

    def _open_training(self, sigma: float) -> Stream:
        spec = training_spec(self._recipe, self._seed, sigma, self._on_bad_record)
        return self._open(spec)

    def _open_validation(self) -> Stream:
        return self._open(StreamSpec("val", view="full", on_bad_record=self._on_bad_record))

    def _find_validation(self) -> StreamInfo | None:
        """Open the stream, so that what would refuse it does so before the first step, and close it."""
        try:
            with contextlib.closing(self._open_validation()) as stream:
                return stream.info
        except NoSuchSplit as refusal:
            log.info("training without validation: %s", refusal)
            return None

    def _open(self, spec: StreamSpec) -> Stream:
        return self._client.stream(spec, self._share.most, digests=self._digests, ranks=self._share.division.ranks)


def training_spec(recipe: Recipe, seed: int, sigma: float, on_bad_record: OnBadRecord) -> StreamSpec:
    pixels = recipe.pixels
    return StreamSpec("train", seed, crop=recipe.crop, sigma=sigma, pixels=pixels, on_bad_record=on_bad_record)
