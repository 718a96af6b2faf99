"""deploy/run_cluster.sh as a whole: it trains, and whatever happens it says why in its last line and leaves nobody."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import keys
from tests.processes import command_line

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "deploy" / "run_cluster.sh"
TRIAL = ["--", "--width", "0.05", "--batch-size", "16", "--threads", "1", "--log-steps", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster") / "data"
    pack = str(Path(sys.executable).parent / "alexnet-pack")
    subprocess.run(
        [pack, "--demo", "--demo-train", "48", "--demo-val", "16", str(folder)], check=True, capture_output=True
    )
    return folder


class Cluster:
    """A running run_cluster.sh in a process group of its own, like one started from a terminal."""

    def __init__(self, run: Path, *options: str | Path) -> None:
        self.run = run
        self.output = run.with_suffix(".output")
        default_signals = ["env", "--default-signal=INT,TERM,HUP"]  # a test run in the background has SIGINT ignored
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*default_signals, SCRIPT, "--run", run, "--workers", "2", "--cpu", *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def train(self) -> list[int]:
        """Wait for the first steps of training; every process of the loader and the trainer."""
        metrics = self.run / "metrics.jsonl"
        wait_until(
            lambda: (metrics.exists() and '"kind": "step"' in metrics.read_text()) or self.process.poll() is not None
        )
        assert self.process.poll() is None, self.output.read_text()
        return family(self.run)

    def find(self, command: str) -> int:
        [pid] = [pid for pid in family(self.run) if re.search(f"/{command}\0.*{self.run}[/\0]", command_line(pid))]
        return pid

    def end(self) -> tuple[int, str]:
        """Exit code and last line."""
        code = self.process.wait(timeout=60)
        return code, self.output.read_text().splitlines()[-1]


@pytest.fixture
def clusters(tmp_path: Path, data: Path) -> Iterator[Callable[..., Cluster]]:
    started: list[Cluster] = []

    def start(name: str, *options: str | Path) -> Cluster:
        started.append(Cluster(tmp_path / name, "--data", data, *options))
        return started[-1]

    yield start
    for cluster in started:
        cluster.process.kill()
        cluster.process.wait()
        for pid in family(cluster.run):
            os.kill(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], object], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit_s} s"
        time.sleep(0.02)


def family(run: Path) -> list[int]:
    """Loader and trainer of a run, by its folder in their command lines, and whoever shares a session with them."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    heads = {pid for pid in pids if f"{run}\0" in command_line(pid) or f"{run}/" in command_line(pid)}
    heads = {pid for pid in heads if str(SCRIPT) not in command_line(pid)}
    return sorted(pid for pid in pids if is_alive(pid) and (pid in heads or session(pid) in heads))


def session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def is_alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if is_alive(pid)]


def test_two_beside_each_other_train_to_the_end_and_leave_nothing(
    clusters: Callable[..., Cluster], tmp_path: Path
) -> None:
    keys.make(tmp_path / "keys")
    encrypted = ["--bind", "tcp://0.0.0.0:*", "--keys", tmp_path / "keys"]
    pair = [clusters("one", "--epochs", "1", *TRIAL), clusters("other", *encrypted, "--epochs", "1", *TRIAL)]
    for cluster in pair:
        code, last = cluster.end()
        assert code == 0, cluster.output.read_text()
        assert re.search(r"top-1 error \d+\.\d %.*" + str(cluster.run), last)
        assert family(cluster.run) == []
    endpoints = {(cluster.run / "loader.endpoint").read_text() for cluster in pair}
    assert len(endpoints) == 2


def test_a_killed_loader_ends_the_trainer_after_it_has_saved(clusters: Callable[..., Cluster]) -> None:
    cluster = clusters("run", "--epochs", "1000", *TRIAL)
    processes = cluster.train()
    assert len(processes) == 4  # the loader, its two workers, the trainer
    os.kill(cluster.find("alexnet-loader"), signal.SIGKILL)
    code, last = cluster.end()
    assert code == 1
    assert "error: the loader ended while training: ended by SIGKILL" in last
    assert alive(processes) == family(cluster.run) == []
    assert list(cluster.run.glob("*.safetensors")) != []


def test_a_killed_trainer_ends_the_loader(clusters: Callable[..., Cluster]) -> None:
    cluster = clusters("run", "--epochs", "1000", *TRIAL)
    processes = cluster.train()
    os.kill(cluster.find("alexnet-trainer"), signal.SIGKILL)
    code, last = cluster.end()
    assert code == 128 + signal.SIGKILL
    assert "error: the trainer was ended by SIGKILL" in last
    assert alive(processes) == family(cluster.run) == []


def test_a_failing_trainer_has_the_last_word(clusters: Callable[..., Cluster]) -> None:
    cluster = clusters("run", "--recipe", "lasagne")
    code, last = cluster.end()
    assert code == 2
    assert "--recipe lasagne: there are" in last
    assert family(cluster.run) == []


def test_ctrl_c_saves_and_resume_goes_on_until_sigusr1(clusters: Callable[..., Cluster]) -> None:
    cluster = clusters("run", "--epochs", "1000", *TRIAL)
    processes = cluster.train()
    os.killpg(cluster.process.pid, signal.SIGINT)
    code, last = cluster.end()
    assert code == 128 + signal.SIGINT
    assert f"stopped by SIGINT; go on with --resume --run {cluster.run}" in last
    assert alive(processes) == family(cluster.run) == []

    saved = max(cluster.run.glob("checkpoint-*"))
    resumed = clusters("run", "--resume")
    begun = '"kind": "run"'
    wait_until(lambda: (cluster.run / "metrics.jsonl").read_text().count(begun) == 2 or resumed.process.poll())
    os.kill(resumed.process.pid, signal.SIGUSR1)  # as a batch system does before the time limit
    code, last = resumed.end()
    assert code == 128 + signal.SIGUSR1, resumed.output.read_text()
    assert f"stopped by SIGUSR1; go on with --resume --run {cluster.run}" in last
    assert max(cluster.run.glob("checkpoint-*")) >= saved
    assert family(cluster.run) == []


def test_nobody_outlives_a_killed_script(clusters: Callable[..., Cluster]) -> None:
    cluster = clusters("run", "--epochs", "1000", *TRIAL)
    processes = cluster.train()
    cluster.process.kill()
    cluster.process.wait()
    wait_until(lambda: alive(processes) == [])


def test_a_loader_that_cannot_start_is_the_cause_in_the_last_line(clusters: Callable[..., Cluster]) -> None:
    cluster = clusters("run", "--data", "/nonexistent")
    code, last = cluster.end()
    assert code == 2
    assert "error: the loader failed to start: /nonexistent holds neither" in last
    assert "loader.log" in last


@pytest.mark.parametrize("options", ["--nonsense", "--epochs", "--epochs=x", "--workers -1", "surplus", "--resume"])
def test_a_wrong_option_gets_one_line_and_exit_code_2(options: str) -> None:
    done = subprocess.run([SCRIPT, *options.split()], capture_output=True, text=True, cwd="/")
    assert done.returncode == 2
    assert re.fullmatch(r"run_cluster\.sh: error: .*see run_cluster\.sh --help\n", done.stderr)
    assert re.search(re.split("[ =]", options)[0], done.stderr)


def test_help_names_every_option_and_sets_nothing_up() -> None:
    done = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True, cwd="/")
    accepted = set(re.findall(r"--[a-z]+(?=[ )|].*;;)", SCRIPT.read_text().partition("take_option()")[0]))
    assert accepted == set(re.findall(r"^  (--[a-z]+)", done.stdout, re.MULTILINE))
