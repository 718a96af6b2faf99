"""A disk that fills while a run saves: what was saved is intact, the error says so, and nothing else is lost."""

import errno
import os
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import SaveError
from common.spec import StreamSpec
from tests.support.checkpoints import a_checkpoint, same_tensors
from tests.support.full_disk import FullDisk
from tests.support.memory_loader import MemoryLoader
from tests.support.processes import PATIENCE_S, LoaderProcess, wait_for
from tests.support.tiny_run import STEPS_PER_EPOCH, Train, equal, lines, weights, without_times
from tests.support.trainer_process import OPTIONS, finish, invoke, start, steps_told
from trainer.checkpoints import checkpoint
from trainer.training.metrics import FILE_NAME, Metrics, read


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FullDisk]:
    with FullDisk(tmp_path / "disk", kib=16384) as disk:
        yield disk


def test_a_save_on_a_full_disk_leaves_what_was_there_and_says_how_much_is_missing(disk: FullDisk) -> None:
    good = checkpoint.save(disk.folder, a_checkpoint(1))
    checkpoint.save_best(good)
    disk.fill()
    with pytest.raises(SaveError) as refused:
        checkpoint.save(disk.folder, a_checkpoint(2))
    assert str(refused.value) == (
        f"{disk.folder}/checkpoint-00000002.safetensors cannot be written: the disk is full: it takes 0.8 MiB, and 0.0"
        f" MiB are free; the last good checkpoint is {good}"
    )
    assert checkpoint.load(good).state.step == checkpoint.load(disk.folder / checkpoint.BEST).state.step == 1
    assert sorted(path.name for path in disk.folder.iterdir()) == ["ballast", checkpoint.BEST, good.name]


def test_what_a_kill_left_makes_room_for_the_next_save(disk: FullDisk) -> None:
    (disk.folder / "checkpoint-00000001.safetensors.partial").write_bytes(bytes(1_000_000))
    disk.fill()
    checkpoint.save(disk.folder, a_checkpoint(2))


def test_lines_that_a_full_disk_does_not_take_are_written_when_there_is_room(
    disk: FullDisk, caplog: pytest.LogCaptureFixture
) -> None:
    with Metrics(disk.folder) as metrics:
        metrics.write("step", step=1)
        disk.fill()
        for step in range(2, 300):  # the rest of the file's last page is still to be had
            metrics.write("step", step=step)
        (warning,) = caplog.messages
        assert re.search(rf"{FILE_NAME} cannot be written: the disk is full.*; its lines wait in memory", warning)
        with pytest.raises(SaveError, match=f"{FILE_NAME} cannot be written: the disk is full"):
            metrics.sync()
        assert len(read(disk.folder / FILE_NAME)) < 299
        disk.empty()
        metrics.sync()
    assert [line["step"] for line in read(disk.folder / FILE_NAME)] == list(range(1, 300))


def test_a_run_goes_on_over_a_full_disk_and_stops_with_an_error_that_names_the_last_good_checkpoint(
    service: LoaderProcess, disk: FullDisk, tmp_path: Path
) -> None:
    """Filled while the trainer saves after every step; then stopped, emptied, resumed."""
    undisturbed, run, told = tmp_path / "undisturbed", disk.folder / "run", tmp_path / "told"
    served = ["--loader", service.endpoint, "--epochs", "100000"]
    with told.open("w") as stderr:
        trainer = start(*OPTIONS, *served, "--run", run, "--checkpoint-minutes", "0", cwd=tmp_path, stderr=stderr)
        wait_for("a checkpoint", lambda: checkpoint.all_in(run) or trainer.poll() is not None)
        wait_for("a warning", lambda: disk.fill() or "training continues" in told.read_text())  # type: ignore[func-returns-value]
        trainer.send_signal(signal.SIGTERM)
        trainer.communicate(timeout=PATIENCE_S)
    assert trainer.returncode == 1, told.read_text()
    last_good = checkpoint.newest(run)
    error = told.read_text().splitlines()[-1]
    assert re.search(r"error: \S+ cannot be written: the disk is full: it takes .* are free", error), error
    assert not list(run.glob("*.partial"))
    for path in (*checkpoint.all_in(run), *run.glob(checkpoint.BEST)):
        checkpoint.load(path)
    disk.empty()
    steps = checkpoint.load(last_good).state.step + 3
    more = [*served, "--steps", str(steps), "--log-steps", "1"]
    resumed = invoke("--cpu", *more, "--resume", "--run", run)
    assert resumed.exit_code == 0, resumed.output
    assert f"resuming from {last_good}" in resumed.stderr.splitlines()[0]
    assert invoke(*OPTIONS, *more, "--run", undisturbed).exit_code == 0
    assert same_tensors(checkpoint.newest(run), checkpoint.newest(undisturbed))
    assert steps_told(run) == list(range(1, steps + 1))


def test_a_disk_that_is_full_for_a_while_costs_nothing_but_the_checkpoints_of_that_while(
    train: Train, loader: MemoryLoader, disk: FullDisk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Full from the middle of the first epoch to the middle of the last, over two epochs' ends."""
    undisturbed = train("undisturbed")

    def fill_and_empty(spec: StreamSpec, epoch: int, position: int) -> None:
        if (spec.split, epoch, position) == ("train", 0, 8):
            disk.fill()
        if (spec.split, epoch, position) == ("train", 2, 8):
            disk.empty()

    loader.on_ask = fill_and_empty
    outcome = train("disk/run")
    assert sum("training continues" in message for message in caplog.messages) == 2
    assert equal(weights(outcome), weights(undisturbed))
    for kind in ("step", "epoch"):
        histories = [without_times(lines(folder, kind)) for folder in (tmp_path / "undisturbed", disk.folder / "run")]
        assert histories[0] == histories[1]
    best = checkpoint.load(disk.folder / "run" / checkpoint.BEST).state
    assert (best.step, best.best_error) == (3 * STEPS_PER_EPOCH, outcome.state.best_error), "the best of those saved"


def test_a_disk_that_is_full_at_the_last_epoch_s_end_is_not_said_to_let_training_go_on(
    train: Train, loader: MemoryLoader, disk: FullDisk, caplog: pytest.LogCaptureFixture
) -> None:
    def fill(spec: StreamSpec, epoch: int, position: int) -> None:
        if (spec.split, epoch, position) == ("train", 2, 8):  # in the last epoch
            disk.fill()

    loader.on_ask = fill
    with pytest.raises(SaveError, match="the disk is full"):
        train("disk/run")
    assert not any("training continues" in message for message in caplog.messages)
    assert sum("training ends, and saves once more" in message for message in caplog.messages) == 1


def test_a_file_that_may_not_be_so_large_ends_the_run_with_its_cause(service: LoaderProcess, tmp_path: Path) -> None:
    """The same without a file system of its own: a process that may not write files of more than 100 kB."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    options = [*OPTIONS, "--loader", service.endpoint, "--steps", "2", "--run", "run"]
    code, out, err = finish(start(*options, cwd=tmp_path, preexec_fn=limit))
    assert (code, out) == (1, []), err
    reason = os.strerror(errno.EFBIG)
    assert err[-1].endswith(
        f"run/checkpoint-00000002.safetensors cannot be written: {reason}; there is no earlier checkpoint"
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == [FILE_NAME]
