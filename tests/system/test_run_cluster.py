"""deploy/run_cluster.sh as a whole: it trains, and whatever happens it says why in its last line and leaves nobody."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.wire import keys
from tests.support.clusters import SCRIPT, TRIAL, Cluster, alive, family, final_weights, small_data, wait_until

KILLS = int(os.environ.get("ALEXNET_KILLS", "2"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("cluster"))


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


def test_two_beside_each_other_train_to_the_end_to_the_same_bits_though_the_service_of_one_is_killed_again_and_again(
    clusters: Callable[..., Cluster], tmp_path: Path
) -> None:
    """`ALEXNET_KILLS` kills it more often; `tests/bench/chaos.py cluster` by the clock."""
    between = 6  # steps, two epochs
    epochs = ["--epochs", str((KILLS + 1) * between // 3)]
    keys.make(tmp_path / "keys")
    encrypted = ["--bind", "tcp://0.0.0.0:*", "--keys", tmp_path / "keys", "--services", "2"]
    killed, undisturbed = clusters("killed", *epochs, *TRIAL), clusters("undisturbed", *encrypted, *epochs, *TRIAL)
    (undisturbed.run / "report.html").mkdir(parents=True)  # where its report would be
    killed.train()
    undisturbed.train()
    assert (killed.run / "loader.endpoint").read_text() != (undisturbed.run / "loader.endpoint").read_text()
    for kill in range(1, KILLS + 1):
        wait_until(lambda kill=kill: killed.steps() >= kill * between)  # type: ignore[misc]
        os.kill(killed.service(), signal.SIGKILL)
    for cluster in (killed, undisturbed):
        code, last = cluster.end()
        assert code == 0, cluster.output.read_text()
        assert re.search(r"top-1 error \d+\.\d %.*" + str(cluster.run), cluster.output.read_text())
        lacks = "run_cluster.sh: training is finished, and its report is not complete; the run is"
        assert last == (f"{lacks} {cluster.run}" if cluster is undisturbed else f"report in {cluster.run}/report.html")
        assert cluster.steps() == (KILLS + 1) * between
        assert family(cluster.run) == []
    assert "Confusions" in (killed.run / "report.html").read_text()
    assert (killed.run / "loader.log").read_text().count("was ended by SIGKILL; it is started again") == KILLS
    assert final_weights(killed.run) == final_weights(undisturbed.run)


def test_a_killed_loader_ends_the_trainer_after_it_has_saved(clusters: Callable[..., Cluster]) -> None:
    cluster = clusters("run", "--epochs", "1000", *TRIAL)
    processes = cluster.train()
    assert len(processes) == 5  # the loader, its service, two workers, the trainer
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
    assert f"stopped by SIGINT; continue with --resume --run {cluster.run}" in last
    assert alive(processes) == family(cluster.run) == []

    saved = max(cluster.run.glob("checkpoint-*"))
    resumed = clusters("run", "--resume")
    begun = '"kind": "run"'
    wait_until(lambda: (cluster.run / "metrics.jsonl").read_text().count(begun) == 2 or resumed.process.poll())
    os.kill(resumed.process.pid, signal.SIGUSR1)  # as a batch system does before the time limit
    code, last = resumed.end()
    assert code == 128 + signal.SIGUSR1, resumed.output.read_text()
    assert f"stopped by SIGUSR1; continue with --resume --run {cluster.run}" in last
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
