"""The service and its client, with real processes and sockets."""

import os
import re
import signal
import socket
import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from common import digest
from common.client.client import LoaderClient
from common.client.stream_sessions import Transport
from common.errors import LoaderFault
from common.images import jpeg
from common.spec import StreamSpec
from common.wire.slab import Replaced
from loader.dataset import Dataset
from loader.workers import sampler
from tests.support.bad_records import flip_a_bit, with_records
from tests.support.photo_tree import photo
from tests.support.poison import poison
from tests.support.processes import LoaderProcess, alive, wait_for
from tests.support.reader import SPEC, ReaderProcess, fingerprint, read


def test_any_number_of_workers_gives_the_same_bytes(
    packed: Path, tmp_path: Path, service: LoaderProcess, undisturbed: list[str]
) -> None:
    with LoaderProcess(packed, tmp_path, 5) as five:
        for endpoint in (service.endpoint, five.endpoint):
            assert read(endpoint, transport="slab") == undisturbed
            assert read(endpoint, transport="frames") == undisturbed


def test_a_batch_is_what_the_stream_promises(packed: Path, service: LoaderProcess) -> None:
    with Dataset(packed / "train.lmdb") as dataset:
        with LoaderClient(service.endpoint) as loader:
            stream = loader.stream(SPEC, 16)
            assert (stream.info.records, stream.info.classes) == (dataset.records, dataset.classes)
            assert np.array_equal(stream.info.mean_hwc, dataset.mean_hwc)
            batch = next(islice(stream.batches([5]), 3, None)).copy()
        order = sampler.order(dataset.records, SPEC.seed, 5)
        draws = sampler.draws_at(SPEC, dataset.colour, 5, 48, 16)
        assert np.array_equal(batch.records, order[48:64])
        for index, record in enumerate(batch.records.tolist()):
            label, packed_jpeg = dataset.read(record)
            top, left = draws.top[index], draws.left[index]
            crop = jpeg.decode(packed_jpeg)[top : top + 64, left : left + 64]
            crop = crop[:, ::-1] if draws.flip[index] else crop
            assert np.array_equal(batch.images[index], np.clip(crop + np.rint(draws.offset[index]), 0, 255))
            assert batch.labels[index] == label


def test_each_record_comes_once_an_epoch_and_the_last_batch_is_smaller(service: LoaderProcess) -> None:
    with LoaderClient(service.endpoint) as loader:
        batches = list(loader.stream(SPEC, 16).batches([0]))
    assert [len(batch) for batch in batches] == [16] * 9 + [6]
    assert sorted(np.concatenate([batch.records for batch in batches]).tolist()) == list(range(150))


def test_a_pass_that_begins_in_the_middle_of_an_epoch_gives_the_rest(
    service: LoaderProcess, undisturbed: list[str]
) -> None:
    with LoaderClient(service.endpoint) as loader:
        stream = loader.stream(SPEC, 16)
        assert fingerprint(stream.batches(range(2), first=64)) == undisturbed[4:]
        assert len(list(islice(stream.batches([0]), 2))) == 2  # given up early
        assert fingerprint(stream.batches([1], first=0)) == undisturbed[10:]


def test_a_worker_killed_in_the_middle_of_anything_changes_nothing(
    packed: Path, tmp_path: Path, undisturbed: list[str]
) -> None:
    with LoaderProcess(packed, tmp_path) as service, LoaderClient(service.endpoint) as loader:
        seen = []
        for batch in loader.stream(SPEC, 16).batches(range(2)):
            seen += fingerprint([batch])
            victim = wait_for("a worker", lambda: service.workers)[0]
            os.kill(victim, signal.SIGKILL)
        assert seen == undisturbed
        wait_for("all workers to be replaced", lambda: len([pid for pid in service.workers if alive(pid)]) == 2)
    assert "another takes its place" in service.log.read_text()


def test_a_service_killed_and_started_again_changes_nothing(
    packed: Path, tmp_path: Path, undisturbed: list[str]
) -> None:
    with LoaderProcess(packed, tmp_path) as first, LoaderClient(first.endpoint) as loader:
        batches = loader.stream(SPEC, 16).batches(range(2))
        seen = fingerprint(islice(batches, 7))
        orphans = first.workers
        first.signal(signal.SIGKILL)
        first.process.wait()
        with LoaderProcess(packed, tmp_path, 2, first.endpoint):
            assert seen + fingerprint(batches) == undisturbed
        wait_for("the killed service's workers to end", lambda: not any(map(alive, orphans)))


def test_one_of_two_services_killed_changes_nothing(packed: Path, tmp_path: Path, undisturbed: list[str]) -> None:
    with LoaderProcess(packed, tmp_path) as stays, LoaderProcess(packed, tmp_path) as goes:
        with LoaderClient([goes.endpoint, stays.endpoint]) as loader:
            batches = loader.stream(SPEC, 16).batches(range(2))
            seen = fingerprint(islice(batches, 5))
            goes.signal(signal.SIGKILL)
            assert seen + fingerprint(batches) == undisturbed


def test_several_streams_of_one_client_are_read_beside_each_other(
    service: LoaderProcess, undisturbed: list[str]
) -> None:
    full = StreamSpec(split="val", view="full")
    alone = undisturbed, read(service.endpoint, spec=full, batch_size=7)
    with LoaderClient(service.endpoint) as loader:
        train, val = loader.stream(SPEC, 16).batches(range(2)), loader.stream(full, 7).batches(range(2))
        together: tuple[list[str], list[str]] = [], []
        for batch in train:
            together[0].extend(fingerprint([batch]))
            together[1].extend(fingerprint(islice(val, 1)))
    assert together == alone


@pytest.mark.parametrize("transport", ["slab", "frames"])
def test_one_stream_opened_twice_is_two_that_know_nothing_of_each_other(
    service: LoaderProcess, undisturbed: list[str], transport: Transport
) -> None:
    with LoaderClient(service.endpoint, transport=transport) as loader:
        first, second = loader.stream(SPEC, 16), loader.stream(SPEC, 16)
        seen: tuple[list[str], list[str]] = [], []
        ahead = first.batches(range(2))
        seen[0].extend(fingerprint(islice(ahead, 3)))
        for batch in second.batches(range(2)):
            seen[1].extend(fingerprint([batch]))
            seen[0].extend(fingerprint(islice(ahead, 1)))
        second.close()
        seen[0].extend(fingerprint(ahead))
        assert seen == (undisturbed, undisturbed)


def test_a_client_that_is_killed_leaves_no_stream_open(service: LoaderProcess) -> None:
    with ReaderProcess(service.endpoint, StreamSpec(), 61, epochs=10**6) as reader:
        reader.read_until(1)
    (name,) = re.findall(r"stream (\w+): .*, batches of 61,", service.log.read_text())
    wait_for("its stream to be closed", lambda: f"stream {name} closed" in service.log.read_text())


@pytest.mark.parametrize("transport", ["slab", "frames"])
def test_a_client_that_stops_reading_holds_up_no_other(
    service: LoaderProcess, undisturbed: list[str], transport: Transport
) -> None:
    with LoaderClient(service.endpoint, transport=transport) as stopped:
        next(stopped.stream(StreamSpec(crop=256), 64).batches(range(1000)))
        assert read(service.endpoint) == undisturbed


def test_workers_take_turns_on_the_cores_where_they_are_pinned_and_else_use_all(
    packed: Path, tmp_path: Path, service: LoaderProcess
) -> None:
    cores = sorted(os.sched_getaffinity(0))
    with LoaderProcess(packed, tmp_path, 3, "tcp://127.0.0.1:*", "--pin") as pinned:
        assert [os.sched_getaffinity(pid) for pid in pinned.workers] == [{cores[k % len(cores)]} for k in range(3)]
        assert os.sched_getaffinity(pinned.process.pid) == set(cores)
    assert os.sched_getaffinity(service.workers[0]) == set(cores)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_service_stops_cleanly_leaving_no_process(packed: Path, tmp_path: Path, number: signal.Signals) -> None:
    with LoaderProcess(packed, tmp_path) as service, LoaderClient(service.endpoint) as loader:
        next(loader.stream(SPEC, 16).batches(range(100)))
        workers = service.workers
        assert len(workers) == 2
        service.signal(number)
        assert service.process.wait(timeout=60) == 0
        wait_for("its workers to end", lambda: not any(map(alive, workers)))


def test_a_stopped_worker_is_ended_at_once_and_its_ticket_given_to_another(
    packed: Path, tmp_path: Path, undisturbed: list[str]
) -> None:
    with LoaderProcess(packed, tmp_path, 2, "tcp://127.0.0.1:*", "--worker-timeout", "3600") as service:
        with LoaderClient(service.endpoint) as loader:
            seen = []
            for batch in loader.stream(SPEC, 16).batches(range(2)):
                seen += fingerprint([batch])
                os.kill(wait_for("a worker at work", lambda: service.bound_workers)[0], signal.SIGSTOP)
        assert seen == undisturbed
    assert "(stopped by a signal); another takes its place" in service.log.read_text()


@pytest.mark.parametrize(("does", "says"), [("kills", "by SIGSEGV"), ("hangs", "more than 0.5 s over one ticket")])
def test_a_record_that_ends_workers_again_and_again_is_reported_and_harms_nobody_else(
    packed: Path, tmp_path: Path, undisturbed: list[str], monkeypatch: pytest.MonkeyPatch, does: str, says: str
) -> None:
    position = sampler.order(150, SPEC.seed, 0).tolist().index(7)
    poison(monkeypatch, tmp_path, packed, 7, does)
    with LoaderProcess(packed, tmp_path, 2, "tcp://127.0.0.1:*", "--worker-timeout", "0.5") as service:
        with LoaderClient(service.endpoint) as loader:
            batches = loader.stream(SPEC, 16).batches([0])
            assert fingerprint(islice(batches, position // 16)) == undisturbed[: position // 16]
            with pytest.raises(LoaderFault, match=rf"3 workers ended over epoch 0, .*{says}.*\(record 7\)"):
                next(batches)
            assert len(list(loader.stream(StreamSpec("val"), 16).batches([0]))) == 3


def test_the_number_of_workers_changes_while_a_client_reads(
    packed: Path, tmp_path: Path, undisturbed: list[str]
) -> None:
    file = tmp_path / "workers"
    file.write_text("1\n")
    with LoaderProcess(packed, tmp_path, 9, "tcp://127.0.0.1:*", "--workers-file", str(file)) as service:
        with LoaderClient(service.endpoint) as loader:
            batches = loader.stream(SPEC, 16).batches(range(2))
            seen = fingerprint(islice(batches, 3))
            for text, says in (
                ("3", "3 workers from now on"),
                ("many", "holds 'many', not a number"),
                ("1", "1 workers from"),
            ):
                file.write_text(text)
                service.signal(signal.SIGHUP)
                seen += fingerprint(islice(batches, 3))
                wait_for(says, lambda says=says: says in service.log.read_text())  # type: ignore[misc]
            assert seen + fingerprint(batches) == undisturbed
        wait_for("one worker", lambda: len(service.workers) == 1)


def test_a_stopped_worker_goes_with_its_killed_service(packed: Path, tmp_path: Path) -> None:
    with LoaderProcess(packed, tmp_path) as service:
        workers = service.workers
        os.kill(workers[0], signal.SIGSTOP)
        service.signal(signal.SIGKILL)
        wait_for("both workers to end", lambda: not any(map(alive, workers)))


def test_bad_records_are_replaced_and_told_the_same_at_any_number_of_workers_by_either_transport(
    packed: Path, tmp_path: Path
) -> None:
    order = sampler.order(150, SPEC.seed, 0).tolist()
    damaged = with_records(packed, tmp_path / "damaged", {order[20]: b"no picture", order[149]: photo(1)})
    flip_a_bit(damaged, order[21])
    told = [
        Replaced(20, order[20], "Not a JPEG file: starts with 0x6e 0x6f"),
        Replaced(21, order[21], "damaged: checksum"),
        Replaced(149, order[149], "the image is 60x48, not 256x256"),
    ]
    seen = []
    transports: tuple[Transport, Transport] = ("slab", "frames")
    for workers in (1, 3):
        with LoaderProcess(damaged, tmp_path, workers) as service:
            for transport in transports:
                with LoaderClient(service.endpoint, transport=transport) as loader:
                    batches = [batch.copy() for batch in loader.stream(SPEC, 16).batches([0, 1])]
                seen.append(fingerprint(batches))
                assert [place for batch in batches[:10] for place in batch.replaced] == told
                records = np.concatenate([batch.records for batch in batches[:10]]).tolist()
                assert records == [*order[:20], order[22], order[22], *order[22:149], order[0]]
    assert all(each == seen[0] for each in seen)


def test_where_a_stream_is_to_stop_a_bad_record_is_a_fault_in_its_turn(packed: Path, tmp_path: Path) -> None:
    order = sampler.order(150, SPEC.seed, 0).tolist()
    damaged = with_records(packed, tmp_path / "damaged", {order[70]: b"no picture"})
    with LoaderProcess(damaged, tmp_path) as service, LoaderClient(service.endpoint) as loader:
        batches = loader.stream(replace(SPEC, on_bad_record="stop"), 16).batches([0])
        assert sum(len(batch) for batch in islice(batches, 4)) == 64
        with pytest.raises(LoaderFault, match=rf"Not a JPEG file.*--on-bad-record replace.*\(record {order[70]}\)"):
            next(batches)


@pytest.mark.parametrize("transport", ["slab", "frames"])
def test_digests_come_where_they_are_asked_for_and_change_nothing_else(
    service: LoaderProcess, undisturbed: list[str], transport: Transport
) -> None:
    with LoaderClient(service.endpoint, transport=transport) as loader:
        assert next(loader.stream(SPEC, 16).batches([0])).digests is None
        batches = [batch.copy() for batch in loader.stream(SPEC, 16, digests="verify").batches(range(2))]
        assert fingerprint(batches) == undisturbed
        for batch in batches:
            made_anew = digest.of_images(batch.images, batch.records.tolist(), batch.labels.tolist())
            assert batch.digests is not None
            assert np.array_equal(batch.digests, made_anew)


def test_a_waiting_client_can_be_served_by_a_service_that_starts_later(
    packed: Path, tmp_path: Path, undisturbed: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.extend(read(endpoint)))
    reader.start()
    with LoaderProcess(packed, tmp_path, 2, endpoint):
        reader.join(timeout=60)
    assert seen == undisturbed
