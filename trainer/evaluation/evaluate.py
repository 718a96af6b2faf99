"""One evaluation, from its options to its report and files."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from common.cli.outputs import written
from common.cli.progress import duration, percent, showing_progress
from common.client.batch import Batch
from common.client.client import LoaderClient
from common.client.stream import Stream
from common.client.waits import WaitClock
from common.errors import AlexNetError
from common.imagenet.devkit import read_devkit
from common.names import told
from common.spec import StreamInfo, StreamSpec
from trainer.device.devices import default_precision, devices_of_halves, make_repeatable, set_precision
from trainer.device.streams import Streams
from trainer.evaluation.answers import Answering
from trainer.evaluation.ensemble import Member
from trainer.evaluation.evaluate_options import EvaluateOptions
from trainer.evaluation.features import Written, write_features
from trainer.evaluation.results import EvaluationReport, write_jsonl
from trainer.evaluation.submission import Submission
from trainer.evaluation.trained import Placing, check_classes_served, check_same_classes, load_trained, member_of
from trainer.feeding.data import open_client
from trainer.feeding.feed import Feed
from trainer.feeding.pinned import Pinned
from trainer.feeding.record_names import names_of
from trainer.network.build import full_memory_as_error
from trainer.network.model import check_hidden

log = logging.getLogger(__name__)


def evaluate_checkpoints(options: EvaluateOptions) -> EvaluationReport:
    """Evaluate as `options` say. Raises any AlexNetError."""
    with full_memory_as_error():
        return _evaluate(options)


def _evaluate(options: EvaluateOptions) -> EvaluationReport:
    weights = options.weight_of_each
    options.refuse_what_a_submission_lacks()
    options.refuse_unwritable_files()
    placing = placing_of(options)
    trained = [load_trained(path) for path in options.checkpoints]
    check_same_classes([(each.path, each.state.class_names) for each in trained])
    with client_of(options) as client:
        stream = client.stream(StreamSpec(options.split, view="full"), options.batch_size)
        check_classes_served(trained[0], stream.info)
        submission = _submission(options, stream.info)
        members = [member_of(each, stream.info, placing) for each in trained]
        del trained
        answering = Answering(members, weights, options.view_counts, stream.info.records, placing.streams)
        clock, started_s = WaitClock(), time.monotonic()
        batches = clock.timed(stream.batches([0], end=options.limit, lend=True))
        if submission is not None:
            batches = submission.checked(batches)
        ask_all(answering, batches, members, options, stream.info)
        seconds = time.monotonic() - started_s
        report = _report(options, stream, answering, weights, seconds, clock.waited_s)
    return replace(report, unwritten=tuple(_write_files(options, report, answering, submission)))


def _submission(options: EvaluateOptions, info: StreamInfo) -> Submission | None:
    return None if options.devkit is None else Submission.of(info, read_devkit(options.devkit), options.skipped)


def features_of(options: EvaluateOptions) -> Written:
    """Write features as `options` say, of any dataset. Raises any AlexNetError."""
    with full_memory_as_error():
        out, layer = options.refuse_what_features_lack()
        options.refuse_unwritable_files()
        placing = placing_of(options)
        trained = load_trained(options.checkpoints[0])
        check_hidden(layer, trained.state.recipe)
        with client_of(options) as client:
            stream = client.stream(StreamSpec(options.split, view="full"), options.batch_size)
            member = member_of(trained, stream.info, placing)
            records = stream.info.records
            rows = min(options.limit or records, records)
            batches = stream.batches([0], end=options.limit, lend=True)
            names = partial(names_of, stream)
            return write_features(
                out, layer, member, batches, names, rows=rows, records=records, streams=placing.streams
            )


def placing_of(options: EvaluateOptions) -> Placing:
    """Devices and precision; sets torch's global state."""
    devices = devices_of_halves(options.gpus, options.cpu)
    make_repeatable(options.threads)
    dtype = set_precision(options.precision or default_precision(devices[0]))
    return Placing(options.net, devices, dtype, Streams())


def client_of(options: EvaluateOptions) -> LoaderClient:
    return open_client(options.loaders, options.loaders_file, options.loader_timeout_s, options.keys)


def ask_all(
    answering: Answering,
    batches: Iterator[Batch],
    members: Sequence[Member],
    options: EvaluateOptions,
    info: StreamInfo,
) -> None:
    feed = Feed(*(member.net for member in members), streams=Streams(), pinned=Pinned())
    asked = min(options.limit or info.records, info.records)
    started_s = time.monotonic()
    with showing_progress() as progress:
        for batch in feed.batches(batches):
            answering.answer(batch)
            if progress.is_due() and answering.seen:
                rate = answering.seen / (time.monotonic() - started_s)
                progress.show(
                    f"{options.split}  {answering.seen:,}/{asked:,} images  {rate:,.0f} images/s"
                    f"  top-1 error {percent(answering.top1_error)}  ETA {duration((asked - answering.seen) / rate)}"
                )
        answering.finish()


def _report(
    options: EvaluateOptions,
    stream: Stream,
    answering: Answering,
    weights: Sequence[float],
    seconds: float,
    waited_s: float,
) -> EvaluationReport:
    info, answers = stream.info, answering.together[max(options.view_counts)]
    mistakes, bad = answers.mistakes(options.mistakes), sorted(answering.bad)
    to_name = [*bad, *(one.record for one in mistakes)]
    to_name += answers.answered.tolist() if options.predictions is not None else []
    names = dict(zip(to_name, names_of(stream, to_name), strict=True))
    for record in bad:
        log.warning("record %s of %s is corrupt, and left out", told(record, names[record]), options.split)
    return EvaluationReport(
        split=options.split,
        dataset=info.digest.hex(),
        records=info.records,
        classes=info.classes,
        rows=[
            (name, {count: answers.evaluation() for count, answers in by_views.items()})
            for name, by_views in answering.by_answerer
        ],
        weights=[weight / sum(weights) for weight in weights],
        confusions=answers.confusions(options.confused),
        mistakes=mistakes,
        names=names,
        bad=bad,
        seconds=seconds,
        waited_s=waited_s,
    )


def _write_files(
    options: EvaluateOptions, report: EvaluationReport, answering: Answering, submission: Submission | None
) -> Iterator[AlexNetError]:
    """Write each file; yield the errors of those that cannot be written."""
    writers: list[tuple[Path | None, Callable[[Path], None]]] = [
        (options.predictions, lambda path: write_jsonl(path, answering.together, report.classes, report.names)),
        (options.json, lambda path: _write_json(path, report)),
    ]
    if submission is not None:
        answers = answering.together[max(options.view_counts)]
        writers.append((options.ilsvrc, lambda path: submission.write(path, answers)))
    for path, write in writers:
        try:
            if path is not None:
                write(path)
        except AlexNetError as error:
            yield error


def _write_json(path: Path, report: EvaluationReport) -> None:
    with written(path) as file:
        file.write(json.dumps(report.to_dict()) + "\n")
