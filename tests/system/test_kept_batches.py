"""Lifetime of a lent batch, and the effect of keeping it on the stream, with a real service."""

import signal
from pathlib import Path

import pytest

from common.client.batch import Batch
from common.client.client import LoaderClient
from common.client.window import acknowledgement
from common.errors import LoaderError
from common.wire import fields
from common.wire.slab import KEPT
from tests.support.processes import LoaderProcess
from tests.support.reader import SPEC, fingerprint


def test_a_batch_is_gone_once_the_next_is_asked_for_unless_it_was_copied(service: LoaderProcess) -> None:
    with LoaderClient(service.endpoint, transport="slab") as loader:
        batches = loader.stream(SPEC, 16).batches(range(20), lend=True)
        first = next(batches)
        before, kept = fingerprint([first]), first.copy()
        list(batches)
        assert fingerprint([kept]) == before
        with pytest.raises(LoaderError, match=r"released.*copy\(\)"):
            _ = first.images
        view = next(loader.stream(SPEC, 16).batches([0], lend=True)).images
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 0


def test_each_batch_kept_until_the_next_has_come_changes_nothing(
    service: LoaderProcess, undisturbed: list[str]
) -> None:
    seen: list[str] = []
    with LoaderClient(service.endpoint, transport="slab") as loader:
        late: list[Batch] = []
        for batch in loader.stream(SPEC, 16).batches(range(2), lend=True):
            batch.keep()
            assert batch.slab is not None
            late.append(batch)
            if len(late) > KEPT:
                seen += fingerprint(late[:1])
                late.pop(0).release()
        assert seen + fingerprint(late) == undisturbed


def test_a_kept_batch_outlives_everything_but_its_release(packed: Path, tmp_path: Path, undisturbed: list[str]) -> None:
    with LoaderProcess(packed, tmp_path, 1) as service, LoaderClient(service.endpoint, transport="slab") as loader:
        stream = loader.stream(SPEC, 16)
        kept = next(stream.batches([0], lend=True))
        kept.keep()
        assert fingerprint(stream.batches(range(2), lend=True)) == undisturbed
        service.signal(signal.SIGKILL)
        loader.close()
        assert fingerprint([kept]) == undisturbed[:1]
        kept.release()
        with pytest.raises(LoaderError, match="released"):
            _ = kept.images


def test_more_batches_than_may_be_kept_are_an_error_and_not_a_wait_for_ever(service: LoaderProcess) -> None:
    with LoaderClient(service.endpoint, transport="slab") as loader:
        stream = loader.stream(SPEC, 16)
        for _ in range(KEPT + 1):
            next(stream.batches([0], lend=True)).keep()
        with pytest.raises(LoaderError, match="2 batches are kept"):
            next(stream.batches([0], lend=True))


def test_a_batch_kept_for_longer_than_a_ticket_can_tell_is_an_error() -> None:
    kept, last = 7, 7 + fields.MAX_SLOTS
    oldest, done = acknowledgement({kept, last + 1}, last + 1)
    assert (oldest, len(done)) == (kept, 4 * fields.MAX_SLOTS)
    with pytest.raises(LoaderError, match="kept"):
        acknowledgement({kept, last + 2}, last + 2)


def test_passes_that_are_given_up_leave_no_slot_behind(service: LoaderProcess, undisturbed: list[str]) -> None:
    with LoaderClient(service.endpoint, transport="slab") as loader:
        stream = loader.stream(SPEC, 16)
        for _ in range(30):  # many times the slots there are
            next(stream.batches([0], lend=True))
        assert fingerprint(stream.batches(range(2), lend=True)) == undisturbed
