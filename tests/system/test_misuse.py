"""Misuse of a client by other programs: a one-line error at once, and correct use continues."""

import gc
import itertools
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from common.client.client import LoaderClient
from common.client.stream import Stream
from common.errors import LoaderError, LoaderFault
from common.spec import StreamSpec
from tests.support.bad_records import with_records
from tests.support.processes import PATIENCE_S, LoaderProcess, wait_for
from tests.support.reader import SPEC, fingerprint


@pytest.fixture
def loader(service: LoaderProcess) -> Iterator[LoaderClient]:
    with LoaderClient(service.endpoint) as loader:
        yield loader


@pytest.fixture
def stream(loader: LoaderClient) -> Stream:
    return loader.stream(SPEC, 16)


FORKED = """
    import os, sys
    from common.client.client import LoaderClient
    from common.errors import LoaderError
    from tests.support.reader import SPEC, fingerprint

    with LoaderClient(sys.argv[1], timeout_s=60) as loader:
        stream = loader.stream(SPEC, 16)
        batches = stream.batches(range(2))
        came = fingerprint([next(batches)])
        child = os.fork()
        if child == 0:
            told = []
            for use in (lambda: next(batches), lambda: next(iter(stream)), lambda: loader.stream(SPEC, 8)):
                try:
                    use()
                except LoaderError as error:
                    told.append(str(error))
            stream.close()
            loader.close()
            with LoaderClient(sys.argv[1]) as own:
                told += fingerprint(own.stream(SPEC, 16).batches([0]))
            print("\\n".join(told))
            sys.exit()  # by way of __exit__, and of every finalizer
        _, status = os.waitpid(child, 0)
        print(status, os.getpid(), child)
        print("\\n".join(came + fingerprint(batches)))
"""


def test_a_client_used_after_a_fork_is_an_error_that_names_both_processes_and_the_parent_reads_on(
    service: LoaderProcess, undisturbed: list[str]
) -> None:
    told = run_script(FORKED, service.endpoint).stdout.splitlines()
    status, parent, child = told[13].split()
    assert status == "0"
    for line in told[:3]:
        assert re.search(rf"opened in process {parent} and is used in process {child}.*open the LoaderClient", line)
    assert told[3:13] == undisturbed[:10]  # a client of its own
    assert told[14:] == undisturbed


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Ended, without its having set up logging."""
    fork = "ignore::DeprecationWarning"  # of os.fork beside ZeroMQ's threads, from Python 3.12 on
    command = [sys.executable, "-W", "error", "-W", fork, "-c", textwrap.dedent(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE_S, check=False)


class Opened(IterableDataset[Any]):
    """A torch dataset over a stream that its maker has opened."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Any]:
        return (torch.from_numpy(batch.images) for batch in self._stream)


class OpenedInWorker(IterableDataset[Any]):
    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def __iter__(self) -> Iterator[Any]:
        with LoaderClient(self._endpoint) as loader:
            yield from (torch.from_numpy(batch.images) for batch in loader.stream(SPEC, 16))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on
def test_a_torch_dataloader_around_a_client_says_where_to_open_it_and_reads_with_one_opened_there(
    service: LoaderProcess, stream: Stream
) -> None:
    with pytest.raises(LoaderError, match=rf"opened in process {os.getpid()} and is used in process"):
        next(iter(DataLoader(Opened(stream), batch_size=None, num_workers=1)))
    read = list(DataLoader(OpenedInWorker(service.endpoint), batch_size=None, num_workers=1))
    assert [np.array_equal(tensor.numpy(), batch.images) for tensor, batch in zip(read, stream, strict=True)] == [
        True
    ] * 10


@pytest.mark.parametrize("of", ["client", "stream", "pass"])
def test_nothing_but_batches_can_be_pickled(loader: LoaderClient, stream: Stream, of: str) -> None:
    with pytest.raises(LoaderError, match="cannot be pickled"):
        pickle.dumps({"client": loader, "stream": stream, "pass": stream.batches([0])}[of])


SILENT = """
    from common.client import patience
    from common.client.client import LoaderClient
    from common.spec import StreamSpec

    patience.SAID_FIRST_S = 0.6
    with LoaderClient("tcp://127.0.0.1:9", timeout_s=1.0) as loader:
        loader.stream(StreamSpec(), 8)
"""


def test_a_script_without_logging_is_told_soon_that_no_loader_answers_and_where() -> None:
    said = run_script(SILENT).stderr.splitlines()
    assert said[0] == (
        "waiting for the loader: a train stream to open for 1 s; no response from tcp://127.0.0.1:9;"
        " is alexnet-loader running there?"
    )
    assert said[1].startswith("Traceback")
    assert re.search(r"LoaderTimeout: no response from tcp://127.0.0.1:9 for 1 s while .*timeout_s", said[-1])


def test_what_was_closed_says_so(service: LoaderProcess) -> None:
    with LoaderClient(service.endpoint) as loader:
        closed, stream = loader.stream(SPEC, 16), loader.stream(SPEC, 8)
        batches = closed.batches([0])
        next(batches)
        closed.close()
        closed.close()
        for each in (batches, closed.batches([0])):
            with pytest.raises(LoaderError, match="the stream was closed"):
                next(each)
        assert next(iter(stream)).epoch == 0
    with pytest.raises(LoaderError, match="the client was closed"):
        next(iter(stream))
    with pytest.raises(LoaderError, match="the client was closed"):
        loader.stream(SPEC, 16)
    loader.close()
    stream.close()
    assert len(stream) == 19


def test_streams_that_were_closed_leave_nothing_in_a_client(loader: LoaderClient, stream: Stream) -> None:
    closed = [loader.stream(SPEC, 8) for _ in range(3)]
    for each in closed:
        each.close()
    gone = [weakref.ref(each) for each in closed]
    del each, closed
    next(stream.batches([0]))
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")
def test_a_client_that_is_dropped_without_being_closed_gives_its_streams_back(service: LoaderProcess) -> None:
    def use() -> "weakref.ref[object]":
        loader = LoaderClient(service.endpoint)
        next(iter(loader.stream(SPEC, 13)))
        return weakref.ref(loader._context)

    def is_collected() -> bool:
        gc.collect()
        return context() is None

    context = use()
    (name,) = re.findall(r"stream (\w+): .*, batches of 13,", service.log.read_text())
    wait_for("the client to be collected", is_collected)
    wait_for("its stream to be closed", lambda: f"stream {name} closed" in service.log.read_text())


def test_a_fault_ends_a_pass_and_does_not_look_like_its_end(packed: Path, tmp_path: Path) -> None:
    data = with_records(packed, tmp_path / "data", {20: b"no picture"})
    with LoaderProcess(data, tmp_path) as service, LoaderClient(service.endpoint) as loader:
        stream = loader.stream(StreamSpec(crop=64, shuffle=False, on_bad_record="stop"), 16)
        batches = iter(stream)
        next(batches)
        with pytest.raises(LoaderFault, match="record 20"):
            next(batches)
        with pytest.raises(LoaderError, match="this pass over the stream has ended: .*record 20"):
            next(batches)
        assert next(stream.batches([0], first=32)).first == 32


class Meanwhile:
    """Does something as a signal handler of this thread, or in another one, while the main thread waits for a batch
    that a stopped service owes. Use in a `with` block; the service continues after it.
    """

    def __init__(self, service: LoaderProcess, action: Callable[[], object], *, in_handler: bool) -> None:
        self._service, self._action = service, action
        self._before: Any = None
        self._thread = None if in_handler else threading.Timer(0.5, action)

    def __enter__(self) -> None:
        self._service.signal(signal.SIGSTOP)
        if self._thread is not None:
            self._thread.start()
            return
        self._before = signal.signal(signal.SIGALRM, self._handle)
        signal.setitimer(signal.ITIMER_REAL, 0.5)

    def _handle(self, _: int, __: FrameType | None) -> None:
        self._action()

    def __exit__(self, *_: object) -> None:
        self._service.signal(signal.SIGCONT)
        if self._thread is not None:
            self._thread.join()
        else:
            signal.signal(signal.SIGALRM, self._before)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_a_wait_that_was_interrupted_ends_the_pass_and_the_next_one_is_right(
    service: LoaderProcess, loader: LoaderClient, undisturbed: list[str], interruption: type[BaseException]
) -> None:
    def interrupt() -> None:
        raise interruption

    stream, other = loader.stream(SPEC, 16), loader.stream(SPEC, 16)
    batches, others = stream.batches(itertools.count()), other.batches(range(2))
    next(others)
    with pytest.raises(interruption), Meanwhile(service, interrupt, in_handler=True):
        list(batches)
    for each in (batches, others):
        with pytest.raises(LoaderError, match="a call was interrupted, and a batch may be lost"):
            next(each)
    for again in (stream, other):
        assert fingerprint(again.batches(range(2))) == undisturbed


@pytest.mark.parametrize("in_handler", [True, False])
def test_a_client_closed_while_it_waits_ends_the_wait(service: LoaderProcess, in_handler: bool) -> None:
    loader = LoaderClient(service.endpoint)
    batches = loader.stream(SPEC, 16).batches(itertools.count())
    started = time.monotonic()
    with pytest.raises(LoaderError, match="the client was closed"):
        with Meanwhile(service, loader.close, in_handler=in_handler):
            list(batches)
    assert time.monotonic() - started < PATIENCE_S
    with pytest.raises(LoaderError, match="the client was closed"):
        loader.stream(SPEC, 16)


@pytest.mark.parametrize("in_handler", [True, False])
def test_a_second_thread_or_a_signal_handler_in_the_middle_of_a_call_is_told_so_and_disturbs_nothing(
    service: LoaderProcess, loader: LoaderClient, undisturbed: list[str], in_handler: bool
) -> None:
    stream, told = loader.stream(SPEC, 16), list[str]()
    other = loader.stream(StreamSpec(crop=32), 16)

    def read_too() -> None:
        try:
            next(iter(other))
        except LoaderError as error:
            told.append(str(error))
        service.signal(signal.SIGCONT)

    batches = stream.batches(range(2))
    with Meanwhile(service, read_too, in_handler=in_handler):
        assert fingerprint(batches) == undisturbed
    (said,) = told
    assert f"another call, of {'this' if in_handler else 'another'} thread: it serves one at a time" in said
    assert len(list(other)) == 10
