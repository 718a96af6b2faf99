"""One report, from its options to its page and figures."""

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from common.cli.outputs import whole_file, written
from common.client.client import LoaderClient
from common.errors import AlexNetError, LoaderError, NoSuchSplit
from trainer.checkpoints.state import State
from trainer.evaluation.evaluate import client_of
from trainer.evaluation.evaluate_options import EvaluateOptions
from trainer.evaluation.trained import load_trained
from trainer.network.build import full_memory_as_error
from trainer.reporting.colours import TrainingImages, training_images
from trainer.reporting.curves import curves
from trainer.reporting.drawing import for_file, png
from trainer.reporting.facts import environment, recipe_text, row_of
from trainer.reporting.filters import Filters, filters_of
from trainer.reporting.history import History, is_training, read_history
from trainer.reporting.own_loader import serving
from trainer.reporting.page import Page, RunSection, render
from trainer.reporting.pictures import ImageParts, image_parts
from trainer.reporting.report_options import ReportOptions

log = logging.getLogger(__name__)

ANSWERS = "answers, nearest images, mistakes and confusions"
TRAINING = "augmentations and colour components"
NO_IMAGES = "they need images; give --loader ENDPOINT, or --data DIR"


class Assembly:
    """The parts of a page. A part that cannot be made is left out, and said on the page and in the log.

    failure   of the loader, after which it is asked for nothing more
    """

    def __init__(self, options: ReportOptions) -> None:
        self._options = options
        self._left_out: dict[str, str] = {}
        self._states: dict[Path, State] = {}
        self._filters: dict[Path, Filters] = {}
        self._images: dict[Path, ImageParts] = {}
        self._training: TrainingImages | None = None
        self.failure: LoaderError | None = None

    def page(self, *, reload_s: float | None = None, waits: str = "") -> Page:
        """The page as of now; `waits` names what comes later."""
        runs = self._histories()
        reach = self._options.reach / 100
        left_out = [f"{what}: {why}" for what, why in self._left_out.items()] + [waits] * bool(waits)
        sections = [self._section(place, run, reach) for place, run in enumerate(runs)]
        return Page(sections, [*curves(runs, reach)], f"{self._options.reach:g} %", self._training, left_out, reload_s)

    def write(self, page: Page) -> None:
        with written(self._options.out) as file:
            file.write(render(page))

    def write_figures(self) -> None:
        """Write each plot as SVG, and the filters as PNG, into the folder of --figures, if one is given."""
        folder = self._options.figures
        if folder is None:
            return
        for plot in curves(self._histories(), self._options.reach / 100, named=True):
            _write(folder / f"{plot.name}.svg", for_file(plot.svg).encode())
        several = len(self._options.runs) > 1
        for place, run in enumerate(self._options.runs):
            if run in self._filters:
                _write(folder / f"filters{f'-{place + 1}' * several}.png", png(self._filters[run].enlarged))

    def add_filters(self) -> None:
        """Read the checkpoint of each run."""
        for run in self._histories():
            self._attempt(f"Filters of {run.name}", partial(self._add_filters, run.folder))

    def _add_filters(self, run: Path) -> None:
        trained = load_trained(run)
        self._filters[run], self._states[run] = filters_of(trained), trained.state

    def add_images(self) -> None:
        """Read images from a loader, or from one of its own. Raises UsageError if its data cannot be served."""
        options = self._options
        if not options.has_images:
            self._leave_out(f"{ANSWERS.capitalize()}; {TRAINING}", NO_IMAGES)
        elif self._states:
            with contextlib.ExitStack() as stack, full_memory_as_error():
                loaders = (stack.enter_context(serving(options.data)),) if options.data else options.loaders
                client = stack.enter_context(client_of(_evaluating(options, options.runs[0], loaders)))
                self._read(client, loaders)

    def _read(self, client: LoaderClient, loaders: tuple[str, ...]) -> None:
        self._attempt(TRAINING.capitalize(), partial(self._read_training, client))
        for run in [run for run in self._histories() if run.folder in self._states]:
            what = f"{ANSWERS.capitalize()} of {run.name}"
            self._attempt(what, partial(self._read_answers, run.folder, client, loaders))

    def _read_training(self, client: LoaderClient) -> None:
        state, *_ = self._states.values()
        self._training = training_images(client, state.recipe, state.stream_seed)

    def _read_answers(self, run: Path, client: LoaderClient, loaders: tuple[str, ...]) -> None:
        options = self._options
        self._images[run] = image_parts(
            run,
            client,
            _evaluating(options, run, loaders),
            pictures=options.pictures,
            mistakes=options.mistakes,
            train_images=options.train_images,
        )

    def _histories(self) -> list[History]:
        return [read_history(folder) for folder in self._options.runs]

    def _section(self, place: int, run: History, reach: float) -> RunSection:
        row = row_of(place, run, reach, training=is_training(run.folder))
        parts = self._filters.get(run.folder), self._images.get(run.folder)
        return RunSection(row, environment(run), recipe_text(run), *parts)

    def _attempt(self, what: str, make: Callable[[], None]) -> None:
        try:
            if self.failure is not None:
                raise self.failure
            make()
            self._left_out.pop(what, None)
        except AlexNetError as error:
            if isinstance(error, LoaderError) and not isinstance(error, NoSuchSplit):
                self.failure = error
            self._leave_out(what, str(error))

    def _leave_out(self, what: str, why: str) -> None:
        if self._left_out.get(what) != why:
            log.warning("left out: %s: %s", what, why)
        self._left_out[what] = why


def _write(path: Path, contents: bytes) -> None:
    with whole_file(path) as incomplete:
        incomplete.write_bytes(contents)


def _evaluating(options: ReportOptions, run: Path, loaders: tuple[str, ...]) -> EvaluateOptions:
    """The evaluation of one run's network: without --gpus on the GPUs there are, or else on the CPU."""
    return EvaluateOptions(
        checkpoints=(run,),
        views="1",
        batch_size=options.batch_size,
        limit=options.val_images,
        gpus=options.gpus,
        cpu=options.cpu or (options.gpus is None and not torch.cuda.is_available()),
        net=options.net,
        loaders=loaders,
        loaders_file=options.loaders_file,
        keys=options.keys,
        loader_timeout_s=options.loader_timeout_s,
        threads=options.threads,
    )
