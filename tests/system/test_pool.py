"""Workers as real processes: how many there are, and what becomes of those that are too many."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import connection
from pathlib import Path

import pytest

from common.errors import LoaderError, UsageError
from common.images import jpeg
from common.spec import StreamSpec
from common.wire.slab import Slab, slot_bytes
from loader.cli.serving import ServeOptions
from loader.dataset import Dataset
from loader.workers import link
from loader.workers.pool import Crashed, Finished, WorkerPool
from tests.support.processes import alive, wait_for

SPEC = StreamSpec(crop=32)
COUNT = 8


@pytest.fixture
def pool(packed: Path) -> Iterator[WorkerPool]:
    with Dataset(packed / "train.lmdb") as dataset:
        workers = WorkerPool({"train": dataset}, jpeg.decoder(), 2, timeout_s=60)
        workers.staff()
        yield workers
        workers.stop()


@pytest.fixture
def slab() -> Iterator[Slab]:
    memory = Slab.create(slot_bytes(SPEC, COUNT), 4)
    yield memory
    memory.close()


def hear(pool: WorkerPool, until: Callable[[], object]) -> list[Finished | Crashed]:
    """Messages of the workers, until the condition holds."""
    outcomes: list[Finished | Crashed] = []

    def listen() -> bool:
        ready = connection.wait([worker.connection for worker in pool.workers], 0.05)
        for worker in [worker for worker in pool.workers if worker.connection in ready]:
            if (outcome := pool.receive(worker)) is not None:
                outcomes.append(outcome)
        return bool(until())

    wait_for("the workers", listen)
    return outcomes


def give(pool: WorkerPool, slab: Slab, slot: int) -> None:
    worker = pool.idle()
    assert worker is not None
    fill = link.Fill((link.Place(1, slot),), SPEC, digests=False, epoch=0, first=slot * COUNT, count=COUNT)
    pool.give(worker, fill, {1: slab})


def test_a_pool_grows_and_shrinks(pool: WorkerPool) -> None:
    hear(pool, lambda: pool.all_ready)
    pool.resize(4)
    hear(pool, lambda: pool.all_ready)
    assert len({worker.place for worker in pool.workers}) == len(pool.workers) == 4
    pids = [worker.process.pid for worker in pool.workers]
    pool.resize(1)
    assert len(pool.workers) == 1
    assert sum(map(alive, pids)) == 1


def test_a_worker_too_many_ends_when_its_ticket_is_done(pool: WorkerPool, slab: Slab) -> None:
    hear(pool, lambda: pool.all_ready)
    give(pool, slab, 0)
    give(pool, slab, 1)
    pool.resize(1)
    assert len(pool.workers) == 2
    outcomes = hear(pool, lambda: all(worker.fill is None for worker in pool.workers))
    assert [type(outcome) for outcome in outcomes] == [Finished, Finished]
    assert len(pool.workers) == 1
    assert pool.idle() is not None


def test_a_worker_too_many_that_dies_has_no_successor_and_its_ticket_is_not_lost(pool: WorkerPool, slab: Slab) -> None:
    hear(pool, lambda: pool.all_ready)
    for worker in pool.workers:
        worker.process.send_signal(signal.SIGSTOP)
    for slot in range(2):
        give(pool, slab, slot)
    pool.resize(1)
    retiring = next(worker for worker in pool.workers if worker.retiring)
    retiring.process.kill()
    (crashed,) = hear(pool, lambda: len(pool.workers) == 1)
    assert isinstance(crashed, Crashed)


def test_workers_that_are_killed_as_they_start_do_not_end_the_service_soon_but_in_the_end(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear(pool, lambda: pool.all_ready)
    monkeypatch.setattr("loader.workers.pool._LONGEST_PAUSE_S", 0.02)
    killed = 0

    def kill_all() -> bool:
        nonlocal killed
        pool.staff()
        for worker in pool.workers:
            worker.process.kill()
            killed += 1
        return killed > 60

    hear(pool, kill_all)
    monkeypatch.setattr("loader.workers.pool.NO_WORKER_LIMIT_S", 0.0)
    killed = -1000
    with pytest.raises(
        LoaderError, match="workers do not start: .*, none is left; the last: it ended early, by SIGKILL"
    ):
        hear(pool, kill_all)


def test_workers_that_never_start_end_the_service_at_once(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with Dataset(packed / "train.lmdb") as dataset:
        pool = WorkerPool({"train": dataset}, jpeg.decoder(), 2, timeout_s=60)

        def staff() -> bool:
            pool.staff()
            return False

        with pytest.raises(LoaderError, match="workers do not start: .*No such file"):
            wait_for("the pool to give up", staff)


def test_a_worker_starts_without_what_only_packing_needs() -> None:
    code = "import loader.workers.worker, sys; print(*sorted({'PIL', 'zmq', 'click'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""


def serve_options(workers: int, file: Path | None) -> ServeOptions:
    return ServeOptions(data=Path("data"), workers=workers, workers_file=file, stream_bytes=1, memory_bytes=1)


@pytest.mark.parametrize("text", ["", "0", "1025", "two", "-1", "1e3", "\N{SUPERSCRIPT TWO}"])
def test_a_file_that_names_no_number_of_workers_is_a_usage_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "workers"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"1 to 1024 \(--workers-file\)"):
        serve_options(2, file).worker_count()


def test_a_missing_file_of_workers_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--workers-file"):
        serve_options(2, tmp_path / "absent").worker_count()
    assert serve_options(2, None).worker_count() == 2
