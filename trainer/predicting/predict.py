"""One prediction, from its options to its outputs."""

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from common.cli.log import error_text
from common.cli.progress import ProgressLine, duration, showing_progress
from common.errors import BadImage, UsageError
from common.imagenet.devkit import read_devkit
from common.imagenet.words import read_words
from common.malloc import keep_all_blocks
from trainer.device.devices import default_precision, devices_of_halves, make_repeatable, set_precision
from trainer.network.build import full_memory_as_error
from trainer.predicting.collection import Collection, ImageFile, check_images
from trainer.predicting.likeliest import Answer, Score, answers_of
from trainer.predicting.networks import Networks
from trainer.predicting.predict_options import PredictOptions
from trainer.predicting.reading import MOST_THREADS, Read, read_ahead
from trainer.predicting.sinks import Sink, Sinks, Vocabulary, csv_file, json_file, table

log = logging.getLogger(__name__)


def predict(options: PredictOptions) -> Score:
    """Answer for files as `options` say. Raises any AlexNetError; BadImage if no file is an image."""
    with full_memory_as_error():
        return _predict(options)


def _predict(options: PredictOptions) -> Score:
    weights = options.weight_of_each
    check_images(options.images)
    options.refuse_unwritable_files()
    words = {} if options.words is None else words_of(options.words)
    networks = _networks(options, weights)
    collection = Collection(options.images, networks.classes, options.files.values())
    files = sum(1 for _ in collection)
    if not files:
        raise UsageError(f"there is no file in {', '.join(map(str, options.images))}")
    vocabulary = Vocabulary(networks.classes, words)
    if options.words is not None and not words.keys() & set(networks.classes):
        log.warning("%s describes none of the classes, such as %s (--words)", options.words, networks.classes[0])
    with Sinks(_sinks(options, weights, vocabulary, _is_labelled(collection))) as sinks, showing_progress() as progress:
        run = _Prediction(networks, options, sinks, progress, files)
        run.answer_all(collection)
        sinks.finish(run.score)
    if not run.score.images:
        raise BadImage(f"of the {files:,} files none is an image that can be read")
    return run.score


class _Prediction:
    def __init__(
        self, networks: Networks, options: PredictOptions, sinks: Sinks, progress: ProgressLine, files: int
    ) -> None:
        self._networks, self._options, self._sinks, self._progress = networks, options, sinks, progress
        self._files, self._began_s = files, time.monotonic()
        self.score = Score(len(networks.classes))

    def answer_all(self, collection: Iterable[ImageFile]) -> None:
        size = self._options.batch_size
        reads = read_ahead(collection, max(size, 2 * MOST_THREADS))
        with contextlib.closing(reads):
            while batch := list(itertools.islice(reads, size)):
                self._take(self._answers(batch))

    def _answers(self, batch: Sequence[tuple[ImageFile, Read]]) -> list[Answer]:
        """In the order of the batch."""
        images = [pixels for _, pixels in batch if not isinstance(pixels, str)]
        files = [file for file, pixels in batch if not isinstance(pixels, str)]
        good: Iterator[Answer] = iter(())
        if images:
            probabilities = self._networks.probabilities(torch.from_numpy(np.stack(images)))
            good = iter(answers_of(files, probabilities, self._options.top))
        return [Answer(file, fault=pixels) if isinstance(pixels, str) else next(good) for file, pixels in batch]

    def _take(self, answers: Sequence[Answer]) -> None:
        self._progress.clear()
        for answer in answers:
            self.score.add(answer)
            if answer.fault:
                log.warning("%s: %s; left out", os.fsdecode(answer.file.path), answer.fault)
        self._sinks.take(answers)
        done = self.score.images + self.score.bad
        rate = done / (time.monotonic() - self._began_s)
        left = duration((self._files - done) / rate)
        self._progress.show(f"{done:,}/{self._files:,} files  {rate:,.0f} files/s  ETA {left}")


def words_of(path: Path) -> dict[str, str]:
    """Descriptions by class name, from a file of words or ILSVRC2012's devkit. Raises UsageError."""
    if path.is_dir() or path.suffix == ".gz":
        return read_devkit(path).words
    try:
        return read_words(path)
    except OSError as error:
        raise UsageError(f"{error_text(error)} (--words)") from None


def _networks(options: PredictOptions, weights: Sequence[float]) -> Networks:
    device, _ = devices_of_halves(options.gpus, options.cpu)
    make_repeatable(options.threads)
    dtype = set_precision(options.precision or default_precision(device))
    if device.type == "cpu":
        keep_all_blocks()
    return Networks(options.runs, weights, views=options.views, device=device, dtype=dtype)


def _is_labelled(collection: Collection) -> bool:
    """True if folders are named like classes; those among them that are not are logged."""
    known, strange = collection.truth()
    if known and strange:
        more = f" and {len(strange) - 1:,} more" if len(strange) > 1 else ""
        log.warning("%s%s: no class has this folder's name; errors leave its images out", strange[0], more)
    return bool(known)


def _sinks(
    options: PredictOptions, weights: Sequence[float], vocabulary: Vocabulary, is_labelled: bool
) -> Iterator[Sink]:
    if options.json is not None:
        about = {
            "runs": list(map(str, options.runs)),
            "weights": [weight / sum(weights) for weight in weights],
            "views": options.views,
            "classes": len(vocabulary.classes),
        }
        yield json_file(options.json, vocabulary, about)
    if options.csv is not None:
        yield csv_file(options.csv, vocabulary, options.top, is_labelled)
    if not options.fills_stdout:
        yield table(vocabulary, is_labelled)
