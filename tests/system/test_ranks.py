"""Runs of several ranks, with real processes and a real loader."""

import os
import re
import shlex
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from loader.cli.audit_command import audit
from tests.support.full_disk import FullDisk
from tests.support.processes import PATIENCE_S, LoaderProcess, wait_for
from tests.support.rank_processes import LaunchedRanks, Ranks, torchrun
from tests.support.tiny_run import TINY, lines, without_times
from trainer.checkpoints import checkpoint
from trainer.checkpoints.checkpoint import tensors_of
from trainer.recipes.recipe import Phase
from trainer.recipes.recipe_file import to_toml

PARTS = 4
# Of 150 images the last batch has 2, of 40 in validation 3: fewer than ranks. Both epochs have 5 steps.
RECIPE = replace(
    TINY,
    name="shared",
    batch_size=37,
    epochs=2,
    phase=(Phase(0, 0.02, sigma=0.1), Phase(1, 0.01, sigma=0.0, layer_rates={"conv1": 0.0})),
    plateau=None,
)


class Shared:
    """Runs on one service, in one folder."""

    def __init__(self, service: LoaderProcess, folder: Path) -> None:
        self.service, self.folder = service, folder
        (folder / "recipe.toml").write_text(to_toml(RECIPE))

    def begin(self, name: str, ranks: int, *options: str, **given: Any) -> Ranks:
        begun = ("--recipe", self.folder / "recipe.toml", "--parts", str(PARTS), "--digest", "on")
        return self._start(name, ranks, *begun, *options, **given)

    def launch(self, name: str, *options: str) -> LaunchedRanks:
        begun = ("--recipe", self.folder / "recipe.toml", "--parts", str(PARTS), "--digest", "on", "--ranks", "2")
        places = ("--loader", self.service.endpoint, "--cpu", "--run", self.folder / name, "--log-steps", "1")
        return LaunchedRanks(self.folder, *begun, *places, *options)

    def resume(self, name: str, ranks: int, *options: str) -> Ranks:
        return self._start(name, ranks, "--resume", *options)

    def _start(self, name: str, ranks: int, *options: str | Path, **given: Any) -> Ranks:
        given["own"] = dict.fromkeys(range(ranks), ("--loader", self.service.endpoint)) | given.get("own", {})
        places = ("--cpu", "--run", self.folder / name, "--log-steps", "1")
        return Ranks(self.folder, ranks, *places, *options, **given)

    def copied(self, name: str, to: str) -> str:
        shutil.copytree(self.folder / name, self.folder / to)
        return to

    def steps(self, name: str) -> int:
        return sum(self.steps_by_start(name))

    def steps_by_start(self, name: str) -> list[int]:
        metrics = self.folder / name / "metrics.jsonl"
        starts = metrics.read_text().split('"kind": "run"')[1:] if metrics.exists() else []
        return [start.count('"kind": "step"') for start in starts]

    def differs(self, name: str, other: str) -> list[str]:
        """Tensors and lines of metrics, but for times, that are not those of the other run."""
        loaded, expected = (checkpoint.load(checkpoint.newest(self.folder / each)) for each in (name, other))
        tensors, others = tensors_of(loaded), tensors_of(expected)
        different = [each for each in others if not tensors[each].equal(others[each])]
        for kind in ("step", "epoch"):
            own, theirs = (without_times(lines(self.folder / each, kind)) for each in (name, other))
            different += [f"{kind} {line}" for line, expected in zip(own, theirs, strict=True) if line != expected]
        return different


@pytest.fixture(scope="module")
def shared(service: LoaderProcess, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    return Shared(service, tmp_path_factory.mktemp("ranks"))


def ended(ranks: Ranks, *codes: int) -> None:
    assert tuple(ranks.wait()) == codes, [ranks.output(rank) for rank in range(len(codes))]


@pytest.fixture(scope="module")
def whole(shared: Shared) -> str:
    """A run of one rank."""
    ended(shared.begin("one", 1), 0)
    return "one"


@pytest.mark.parametrize("ranks", [2, 4])
def test_bits_errors_metrics_and_digests_are_the_same_for_any_number_of_ranks(
    shared: Shared, whole: str, ranks: int
) -> None:
    run = shared.begin(f"of-{ranks}", ranks)
    ended(run, *[0] * ranks)
    assert shared.differs(f"of-{ranks}", whole) == []
    assert [run.output(rank) for rank in range(1, ranks)] == [""] * (ranks - 1)


def test_the_audit_finds_the_epochs_of_a_run_of_ranks(shared: Shared, whole: str, packed: Path) -> None:
    for line in lines(shared.folder / whole, "epoch"):
        stream = line["stream"]
        options = ["--epoch", str(line["epoch"]), "--crop", str(stream["crop"]), "--sigma", str(stream["sigma"])]
        done = CliRunner().invoke(audit, ["--data", str(packed), *options, "--jobs", "1"])
        assert f"digest {line['digest']}," in done.output.splitlines()[-1]


def test_all_ranks_stop_after_the_same_step_and_any_number_of_them_continues(shared: Shared, whole: str) -> None:
    stopped = shared.begin("stopped", 2)
    wait_for("a few steps", lambda: shared.steps("stopped") > 1)
    os.kill(stopped.processes[1].pid or 0, signal.SIGTERM)
    ended(stopped, 143, 143)
    assert "stopped by SIGTERM after step" in stopped.output(0)
    continued = {ranks: shared.resume(shared.copied("stopped", f"on-{ranks}"), ranks) for ranks in (1, 4)}
    for ranks, run in continued.items():
        ended(run, *[0] * ranks)
        assert shared.differs(f"on-{ranks}", whole) == []
        assert lines(shared.folder / f"on-{ranks}", "run")[-1]["changed"] == {"ranks": [2, ranks]}


def test_a_killed_rank_costs_no_step(shared: Shared, whole: str) -> None:
    run = shared.begin("killed", 2)
    wait_for("a few steps", lambda: shared.steps("killed") > 1)
    run.processes[1].kill()
    assert run.wait()[0] == 1
    saved = checkpoint.newest(shared.folder / "killed")
    last = run.output(0).splitlines()[-1]
    assert "error: rank 0 hears nothing from rank 1" in last
    assert f"the run is saved in {saved}" in last
    assert checkpoint.load(saved).state.step >= shared.steps("killed") - 1
    ended(shared.begin("killed", 2, restarted=1), 0, 0)  # as rank 0's launcher, on another node, counts no restart
    assert shared.differs("killed", whole) == []


def test_a_rank_without_images_says_why_and_all_save(shared: Shared, packed: Path) -> None:
    with LoaderProcess(packed, shared.folder) as own:
        options = ["--loader", own.endpoint, "--loader-timeout", "1"]
        run = shared.begin("starved", 2, own={1: options})
        wait_for("a few steps", lambda: shared.steps("starved") > 0)
        own.kill()
        ended(run, 1, 1)
    assert f"no response from {own.endpoint}" in run.output(1)
    assert f"the run is saved in {checkpoint.newest(shared.folder / 'starved')}" in run.output(1)
    assert "error:" not in run.output(0)


def test_ranks_that_were_started_differently_are_refused(shared: Shared, other_packed: Path, tmp_path: Path) -> None:
    seeds = shared.begin("seeds", 2, own={1: ["--seed", "2", "--loader", shared.service.endpoint]})
    nowhere = shared.begin("nowhere", 2, own={1: ["--loader", "tcp://127.0.0.1:1", "--loader-timeout", "0.2"]})
    with LoaderProcess(other_packed, tmp_path) as other:
        data = shared.begin("data", 2, own={1: ["--loader", other.endpoint]})
        ended(data, 2, 2)
    ended(seeds, 2, 2)
    ended(nowhere, 1, 1)
    assert "seed is 0 on rank 0, 2 on rank 1" in seeds.output(0)
    assert "dataset is" in data.output(0)
    assert "no response from tcp://127.0.0.1:1" in nowhere.output(1)
    assert [seeds.output(1), data.output(1)] == ["", ""]
    assert "error:" not in nowhere.output(0)


def test_too_many_ranks_for_the_run_or_its_batch_are_refused(shared: Shared) -> None:
    few = shared.begin("few", 2, "--batch-size", "3")
    third = shared.begin("third", 3)
    ended(few, 2, 2)
    ended(third, 2, 2, 2)
    assert "a batch of 3 cannot be computed in 4 parts" in few.output(0)
    assert "3 ranks cannot share 4 parts" in third.output(0)


def test_a_launched_run_loses_a_rank_stops_by_sigterm_to_every_process_and_goes_on_under_torchrun(
    shared: Shared,
) -> None:
    endless = ("--epochs", "1000")
    with shared.launch("lost", *endless, "--checkpoint-minutes", "0") as run:
        wait_for("a checkpoint", lambda: checkpoint.all_in(shared.folder / "lost") or run.process.exitcode is not None)
        os.kill(run.pids[0], signal.SIGKILL)
        wait_for(
            "a step after the restart",
            lambda: any(shared.steps_by_start("lost")[1:]) or run.process.exitcode is not None,
        )
        run.signal_all(signal.SIGTERM)
        assert run.wait() == 143, run.output
    assert run.output.count("rank 0 was ended by SIGKILL; all ranks restart, for the first time") == 1
    assert "frame #" not in run.output, "the others are silent about the store that died with rank 0"
    saved = r"stopped by SIGTERM after step (\d+); saved in .*-0*(\d+)\.safetensors; to continue: alexnet-trainer (.*)"
    found = re.fullmatch(saved, run.output.splitlines()[-1])
    assert found is not None, run.output
    assert found[1] == found[2]
    limit = ("--steps", str(int(found[1]) + 3))
    with torchrun(shared.folder, *shlex.split(found[3]), *limit) as resumed:
        ended(shared.begin("undisturbed", 1, *endless, *limit), 0)
        assert resumed.wait(PATIENCE_S) == 0
    assert shared.differs("lost", "undisturbed") == []


def test_ranks_wait_for_their_only_loader(shared: Shared, whole: str, packed: Path) -> None:
    endpoint, patience = f"ipc://{shared.folder}/own", ("--loader-timeout", "300", "--rank-timeout", "400")
    with LoaderProcess(packed, shared.folder, 2, endpoint) as own:
        run = shared.begin("waited", 2, *patience, own=dict.fromkeys(range(2), ("--loader", endpoint)))
        wait_for("a step", lambda: shared.steps("waited") > 0)
        own.kill()
    with LoaderProcess(packed, shared.folder, 2, endpoint):
        ended(run, 0, 0)
    assert shared.differs("waited", whole) == []
    assert len(shared.steps_by_start("waited")) == 1


def test_ranks_go_on_over_a_full_disk_and_save_once_there_is_room(shared: Shared, tmp_path: Path) -> None:
    with FullDisk(tmp_path / "disk", kib=16384) as disk:
        name = str(disk.folder / "run")
        run = shared.begin(name, 2, "--epochs", "1000", "--checkpoint-minutes", "0")
        wait_for("a checkpoint", lambda: checkpoint.all_in(disk.folder / "run") or not run.processes[0].is_alive())
        wait_for("a warning", lambda: disk.fill() or "training continues" in run.output(0))  # type: ignore[func-returns-value]
        disk.empty()
        steps = shared.steps(name)
        wait_for("a step", lambda: shared.steps(name) > steps or not run.processes[0].is_alive())
        os.kill(run.processes[1].pid or 0, signal.SIGTERM)
        ended(run, 143, 143)
        told = [line["step"] for line in lines(disk.folder / "run", "step")]
        assert told == list(range(1, checkpoint.load(checkpoint.newest(disk.folder / "run")).state.step + 1))
