"""deploy/slurm/train.sbatch on a real Slurm of two nodes, by tests/cluster.sh: a run does not notice its job's ends."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.clusters import TRIAL, final_weights, small_data
from tests.support.paths import ROOT
from tests.support.processes import LoaderProcess, wait_for
from tests.support.slurm import NODES, SlurmCluster, free_ports, lacking
from trainer.training.metrics import FILE_NAME, read

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.environ.get("ALEXNET_CLUSTERS") != "1", reason="clusters are tests/cluster.sh's"),
    pytest.mark.skipif(bool(lacking()), reason=lacking()),
]
SCRIPT = ROOT / "deploy" / "slurm" / "train.sbatch"
COMMANDS = Path(sys.executable).parent
EPOCHS = 16  # of three steps
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
TRAINING = ["--recipe", "demo", "--cpu", *TRIAL[1:], "--parts", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("slurm"))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


class Job:
    """A run by train.sbatch on both nodes, a rank on each, or two on one."""

    def __init__(self, slurm: SlurmCluster, run: Path, data: Path, *options: str, nodes: int = 2) -> None:
        self.slurm, self.run = slurm, run
        self.output = run.with_suffix(".output")
        given = {"RUN": run, "LOADER_DATA": data, "LOADER_WORKERS": 1, "BIN": COMMANDS, "PORT": free_ports(1)[0]}
        given["RANKS"] = 2 // nodes
        variables = {f"ALEXNET_{name}": str(value) for name, value in given.items()} | {"OMP_NUM_THREADS": "1"}
        of_slurm = [f"--output={self.output}", f"--nodes={nodes}"]
        self.number = slurm.submit(SCRIPT, of_slurm, [*TRAINING, *options], variables)

    def told(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def state(self) -> str:
        return self.slurm.job(self.number)["JobState"]

    def steps(self) -> list[int]:
        path = self.run / FILE_NAME
        return [line["step"] for line in read(path) if line["kind"] == "step"] if path.exists() else []

    def trains(self, restarts: int) -> int:
        """Wait until the job's start of this number has trained three steps; returns the last one's number."""
        wait_for("a start", lambda: self.slurm.job(self.number)["Restarts"] == str(restarts))
        before = max(self.steps(), default=0)
        self._until(f"steps of start {restarts}", lambda: max(self.steps(), default=0) >= before + 3)
        assert self.state() == "RUNNING", self.told()
        return max(self.steps())

    def requeued(self) -> None:
        """Wait until the job is pending again, and shorten Slurm's pause of two minutes.

        Slurm 22.05 refuses a job that starts within the second of its requeue: "credential revoked".
        """
        self._until("the job to be requeued", lambda: self.state() == "PENDING")
        self.slurm.update(f"JobId={self.number}", "StartTime=now+2")

    def ends(self) -> str:
        """Wait until the job ends, however long as it makes steps; returns its state."""
        while self.state() not in ENDED:
            steps = self.steps()
            wait_for("a step, or the job's end", lambda: self.steps() != steps or self.state() in ENDED)  # noqa: B023
        return self.state()

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        wait_for(what, lambda: condition() or self.state() in ENDED)
        assert condition(), f"{what}: {self.told()}"


@pytest.fixture
def undisturbed(data: Path, tmp_path: Path) -> dict[str, bytes]:
    """Weights of the same training in one process without Slurm."""
    run = tmp_path / "undisturbed"
    with LoaderProcess(data, tmp_path) as loader:
        options = ["--loader", loader.endpoint, "--run", str(run), "--epochs", str(EPOCHS), *TRAINING]
        subprocess.run([COMMANDS / "alexnet-trainer", *options], check=True, capture_output=True)
    return final_weights(run)


def test_a_job_asked_to_end_requeued_and_robbed_of_a_node_ends_with_the_bits_of_an_undisturbed_run(
    slurm: SlurmCluster, data: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    job = Job(slurm, tmp_path / "run", data, "--epochs", str(EPOCHS))
    job.trains(0)
    slurm.call("scancel", "--batch", "--signal=USR1", job.number)
    job.requeued()
    job.trains(1)
    slurm.kill_node(NODES[1])
    job.requeued()
    slurm.start_node(NODES[1])
    assert job.ends() == "COMPLETED", job.told()
    assert slurm.job(job.number)["Restarts"] == "2"
    assert job.steps() == list(range(1, 3 * EPOCHS + 1))
    assert final_weights(job.run) == undisturbed


def test_a_job_near_its_time_limit_saves_and_is_requeued(slurm: SlurmCluster, data: Path, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path / "run", data, "--epochs", "1000", nodes=1)
    job.trains(0)
    hours, minutes, _ = map(int, slurm.job(job.number)["RunTime"].split(":"))
    slurm.update(f"JobId={job.number}", f"TimeLimit={60 * hours + minutes + 2}")  # the signal is due two minutes before
    job.requeued()
    slurm.update(f"JobId={job.number}", "TimeLimit=UNLIMITED")
    step = job.trains(1)
    slurm.call("scancel", "--signal=TERM", f"{job.number}.1")
    assert job.ends() == "FAILED"
    assert slurm.job(job.number)["ExitCode"] == "143:0"
    assert "asked to end: the ranks save" in job.told()
    assert job.steps()[:step] == list(range(1, step + 1))
    assert job.told().count("stopped by SIGTERM") == 2


def test_a_wrong_option_ends_a_job_at_once(slurm: SlurmCluster, data: Path, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path / "run", data, "--epochs", "-1")
    assert job.ends() == "FAILED", job.told()
    assert (slurm.job(job.number)["ExitCode"], slurm.job(job.number)["Restarts"]) == ("2:0", "0")
    assert "--epochs" in job.told()


def test_a_loader_that_cannot_start_ends_a_job_with_its_reason(slurm: SlurmCluster, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path / "run", tmp_path / "nothing")
    assert job.ends() == "FAILED", job.told()
    assert "nothing holds neither train.lmdb nor val.lmdb" in job.told()
    assert re.search(r"error: the loader of n[12] failed to start$", job.told(), re.MULTILINE)
