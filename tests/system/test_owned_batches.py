"""Batches as other programs have them: memory of their own, in loops over the stream, with a real service."""

import pickle
import queue
import signal
import threading
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch

from common.client.batch import Batch
from common.client.client import LoaderClient
from common.client.stream import Stream
from common.client.stream_sessions import Transport
from common.errors import LoaderError, LoaderTimeout
from common.spec import StreamSpec
from tests.support.processes import LoaderProcess
from tests.support.reader import SPEC, fingerprint


@pytest.fixture(params=["slab", "frames"])
def loader(service: LoaderProcess, request: pytest.FixtureRequest) -> Iterator[LoaderClient]:
    with LoaderClient(service.endpoint, transport=request.param) as loader:
        yield loader


@pytest.fixture
def stream(service: LoaderProcess) -> Iterator[Stream]:
    with LoaderClient(service.endpoint) as loader:
        yield loader.stream(SPEC, 16)


def read_ahead(batches: Iterator[Batch], depth: int) -> Iterator[Batch]:
    """The batches, as a thread of its own takes them and runs ahead."""
    ahead: queue.Queue[Batch | None] = queue.Queue(depth)

    def fill() -> None:
        for batch in batches:
            ahead.put(batch)
        ahead.put(None)

    threading.Thread(target=fill, daemon=True).start()
    return iter(ahead.get, None)


@pytest.mark.parametrize("depth", [0, 4])
def test_tensors_over_a_batchs_images_keep_their_pixels_for_ever(
    loader: LoaderClient, undisturbed: list[str], depth: int
) -> None:
    batches: Iterator[Batch] = loader.stream(SPEC, 16).batches(range(2))
    held = list(read_ahead(batches, depth) if depth else batches)  # many times the slots there are
    tensors = [torch.from_numpy(batch.images) for batch in held]  # warns of what may not be written to
    assert fingerprint(held) == undisturbed
    tensors[0].fill_(7)
    assert (held[0].images == 7).all()
    assert fingerprint(held[1:]) == undisturbed[1:]


def test_keep_and_release_may_be_called_on_a_batch_that_is_owned(stream: Stream, undisturbed: list[str]) -> None:
    held = []
    for batch in stream.batches(range(2)):
        held.append(batch.images)
        batch.keep()
        batch.release()
        with pytest.raises(LoaderError, match=r"epoch \d, position \d+ was released"):
            _ = batch.images
    whole = list(stream.batches(range(2)))
    assert fingerprint(whole) == undisturbed
    assert all(np.array_equal(images, batch.images) for images, batch in zip(held, whole, strict=True))


@pytest.mark.parametrize("lend", [True, False])
def test_a_batch_goes_to_another_process_with_its_pixels(stream: Stream, undisturbed: list[str], lend: bool) -> None:
    sent = pickle.dumps(next(stream.batches([0], lend=lend)))
    next(stream.batches([1]))
    assert fingerprint([pickle.loads(sent)]) == undisturbed[:1]


def test_each_loop_over_a_stream_is_the_next_epoch(stream: Stream, undisturbed: list[str]) -> None:
    assert len(stream) == 10
    assert fingerprint(stream) + fingerprint(stream) == undisturbed
    assert len(list(islice(stream, 3))) == 3  # epoch 2, left early
    assert next(iter(stream)).epoch == 3
    stream.epoch = 0
    assert fingerprint(stream) == undisturbed[:10]
    assert stream.epoch == 1


def test_a_stream_that_is_not_shuffled_has_every_record_at_its_own_position(loader: LoaderClient) -> None:
    stream = loader.stream(StreamSpec(seed=3, crop=64, shuffle=False), 16)
    epochs = [list(stream), list(stream)]
    for batches in epochs:
        assert np.concatenate([batch.records for batch in batches]).tolist() == list(range(150))
    assert not np.array_equal(epochs[0][0].images, epochs[1][0].images)  # cropped anew


def test_a_pass_that_another_one_ended_says_so_and_one_that_is_over_stays_over(
    stream: Stream, undisturbed: list[str]
) -> None:
    first, second = stream.batches([0]), stream.batches([1])
    next(first)
    assert fingerprint(second) == undisturbed[10:]
    for _ in range(2):
        with pytest.raises(LoaderError, match="another pass over the stream began"):
            next(first)
    assert next(second, None) is None
    outer = iter(stream)
    assert [(next(outer).epoch, next(iter(stream)).epoch)] == [(0, 1)]
    with pytest.raises(LoaderError, match="another pass"):
        next(outer)


def test_after_a_timeout_the_pass_waits_on(service: LoaderProcess, undisturbed: list[str]) -> None:
    with LoaderClient(service.endpoint, timeout_s=1.5) as loader:
        batches = loader.stream(SPEC, 16).batches(range(2))
        came = [next(batches)]
        service.signal(signal.SIGSTOP)
        try:
            with pytest.raises(LoaderTimeout):
                came.extend(batches)
        finally:
            service.signal(signal.SIGCONT)
        for batch in batches:
            came.append(batch)
    assert fingerprint(came) == undisturbed


@pytest.mark.parametrize("transports", [("slab", "slab"), ("slab", "frames")])
def test_two_clients_of_a_process_are_read_in_turns(
    service: LoaderProcess, undisturbed: list[str], transports: tuple[Transport, Transport]
) -> None:
    one, other = (LoaderClient(service.endpoint, transport=transport) for transport in transports)
    with one, other:
        both = zip(*(loader.stream(SPEC, 16).batches(range(2)) for loader in (one, other)), strict=True)
        pairs = list(both)
    assert fingerprint(first for first, _ in pairs) == undisturbed
    assert fingerprint(second for _, second in pairs) == undisturbed
