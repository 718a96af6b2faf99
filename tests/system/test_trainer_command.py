"""The trainer's command on a real loader service: as a process or, if its start is not the point, in this one."""

import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from loader.cli.audit_command import audit
from tests.support.bad_records import with_records
from tests.support.checkpoints import same_tensors
from tests.support.processes import LoaderProcess, wait_for
from tests.support.tiny_run import lines
from tests.support.trainer_process import OPTIONS, finish, invoke, start, steps_in, steps_told, wait_for_steps
from trainer.checkpoints import checkpoint
from trainer.recipes.named import DEMO, SOURCE
from trainer.recipes.recipe_file import to_toml
from trainer.training.metrics import FILE_NAME, read

TWO_EPOCHS = [*OPTIONS, "--batch-size", "30", "--epochs", "2", "--digest", "on"]
STEPS = 10  # of TWO_EPOCHS
WITHOUT_END = [*OPTIONS, "--epochs", "100000"]


@pytest.fixture(scope="module")
def data(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three records of train are no images."""
    bad = {3: b"no picture", 77: b"", 149: b"nor this"}
    return with_records(packed, tmp_path_factory.mktemp("data") / "data", bad)


@pytest.fixture(scope="module")
def loader(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with LoaderProcess(data, tmp_path_factory.mktemp("loader"), workers=1) as service:
        yield service


@dataclass(frozen=True)
class Trained:
    """A run as a process that nothing happened to."""

    folder: Path
    out: list[str]
    err: list[str]


@pytest.fixture(scope="module")
def undisturbed(loader: LoaderProcess, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("undisturbed")
    code, out, err = finish(start(*TWO_EPOCHS, "--loader", loader.endpoint, cwd=folder))
    assert code == 0, err
    (run,) = (folder / "runs").iterdir()
    return Trained(run, out, err)


def test_a_run_ends_with_its_errors_and_its_folder(undisturbed: Trained) -> None:
    errors = r"validation top-1 error [\d.]+ % \(95 %: [\d.]+\.\.[\d.]+\), top-5 error [\d.]+ %"
    (last,) = undisturbed.out
    assert re.fullmatch(rf"trained 2 epochs: {errors}; run in runs/{re.escape(undisturbed.folder.name)}", last)
    assert undisturbed.folder.name.startswith("demo-")
    assert (undisturbed.folder / checkpoint.BEST).exists()
    err = undisturbed.err
    assert any(line.startswith("epoch 1/2: loss") for line in err), "plain lines, as this is no terminal"
    assert sum(bool(re.search(r": dataset [0-9a-f]{32}$", line)) for line in err) == 1
    assert any(line.startswith("  the lowest validation error so far") for line in err)
    assert any(re.match(r"  waited [\d.]+ % of the time for data: \w", line) for line in err), err


def test_a_stopped_and_resumed_run_has_the_bits_of_an_undisturbed_one_and_the_digests_that_the_audit_finds(
    loader: LoaderProcess, data: Path, undisturbed: Trained, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for options in ([*TWO_EPOCHS, "--steps", "3"], ["--cpu", "--resume", "--log-steps", "1"]):
        result = invoke(*options, "--loader", loader.endpoint, "--run", run)
        assert result.exit_code == 0, result.output
    assert same_tensors(checkpoint.newest(run), checkpoint.newest(undisturbed.folder))
    assert steps_told(run) == list(range(1, STEPS + 1))
    epochs = lines(run, "epoch")
    assert [line["replaced"] for line in epochs] == [3, 3]
    assert len({line["digest"] for line in epochs}) == 2
    assert [line["digest"] for line in lines(undisturbed.folder, "epoch")] == [line["digest"] for line in epochs]
    (begun, _) = lines(run, "run")
    for number, line in enumerate(epochs):
        stream = [text for name, value in line["stream"].items() for text in (f"--{name.replace('_', '-')}", value)]
        asked = ["--data", data, "--dataset", begun["dataset"]["digest"], "--epoch", number, "--jobs", "1", *stream]
        audited = CliRunner().invoke(audit, list(map(str, asked)))
        assert f": digest {line['digest']}, " in audited.stdout.splitlines()[-1], audited.output


def test_exact_noise_reaches_the_network_in_float32(loader: LoaderProcess, tmp_path: Path) -> None:
    losses = []
    for pixels in ("uint8", "float32"):
        loud = tuple(replace(phase, sigma=2.0) for phase in DEMO.phase)  # so that bytes clip a good part of the values
        (path := tmp_path / f"{pixels}.toml").write_text(to_toml(replace(DEMO, width=0.02, pixels=pixels, phase=loud)))
        asked = [*OPTIONS[:1], *OPTIONS[5:], "--recipe", str(path), "--loader", loader.endpoint, "--steps", "3"]
        result = invoke(*asked, "--run", tmp_path / pixels, "--digest", "verify")
        assert result.exit_code == 0, result.output
        state = checkpoint.load(checkpoint.newest(tmp_path / pixels)).state
        assert state.recipe.pixels == pixels
        losses.append(read(tmp_path / pixels / FILE_NAME)[-1]["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2), "the same pictures"


def test_an_only_step_at_a_rate_far_too_high_leaves_no_checkpoint_and_exit_code_1(
    loader: LoaderProcess, tmp_path: Path
) -> None:
    asked = [*OPTIONS, "--batch-size", "150", "--epochs", "1", "--lr", "1e30", "--loader", loader.endpoint]
    result = invoke(*asked, "--run", tmp_path / "run")
    assert result.exit_code == 1
    assert "nothing was saved; start again with a lower --lr" in result.stderr.splitlines()[-1]
    assert "lowest validation error" not in result.stderr
    assert list((tmp_path / "run").glob("*.safetensors")) == []


def test_a_recipe_that_the_memory_cannot_hold_is_one_line_and_exit_code_2(
    loader: LoaderProcess, tmp_path: Path
) -> None:
    (path := tmp_path / "wide.toml").write_text(to_toml(replace(SOURCE, width=16.0)))
    result = invoke("--cpu", "--recipe", path, "--loader", loader.endpoint)
    assert result.exit_code == 2
    assert re.search(r"error: recipe source at width 16 has [\d,]+ weights.*try a smaller --width", result.stderr)


def test_a_loader_that_does_not_come_back_ends_the_run_with_its_cause_and_a_checkpoint(
    packed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with LoaderProcess(packed, tmp_path, workers=1) as service, ThreadPoolExecutor(1) as thread:

        def kill_it_while_it_serves() -> None:
            wait_for("3 steps", lambda: steps_in(run) >= 3)
            service.process.kill()

        killing = thread.submit(kill_it_while_it_serves)
        result = invoke(*WITHOUT_END, "--loader", service.endpoint, "--loader-timeout", "0.5", "--run", run)
        killing.result()
    assert result.exit_code == 1
    last_line = re.search(
        r"error: no response from tcp.*--loader-timeout.*; the run is saved in (\S+); to continue: alexnet-trainer ",
        result.stderr.splitlines()[-1],
    )
    assert last_line is not None, result.stderr
    assert checkpoint.load(Path(last_line[1])).state.step >= 3


def test_without_any_loader_the_trainer_waits_says_so_goes_on_when_one_is_back_and_stops_while_it_waits_again(
    packed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with LoaderProcess(packed, tmp_path, workers=1) as service:
        endpoint = service.endpoint
        waiting_long = ["--loader", endpoint, "--loader-timeout", "3600"]
        trainer = start(*WITHOUT_END, *waiting_long, "--run", run, cwd=tmp_path)
        wait_for_steps(trainer, run, 3)
        service.signal(signal.SIGKILL)
    assert trainer.stderr is not None
    said = next(line for line in trainer.stderr if "waiting for the loader" in line)
    assert re.search(r"epoch \d+, positions \d+\.\. for \d+ s", said)
    before = steps_in(run)
    with LoaderProcess(packed, tmp_path, 2, endpoint) as service:
        wait_for_steps(trainer, run, before + 3)
        service.process.kill()
    wait_until_idle(trainer)
    trainer.send_signal(signal.SIGINT)
    code, out, err = finish(trainer)
    assert code == 128 + signal.SIGINT, err
    to_continue = "to continue: alexnet-trainer --resume --run"
    assert re.search(rf"stopped by SIGINT after step \d+; saved in \S+; {to_continue} \S+ --cpu ", out[-1])
    assert checkpoint.load(checkpoint.newest(run)).state.step >= before + 3


def wait_until_idle(process: subprocess.Popen[str]) -> None:
    """Until the process has used no processor time between two looks a fifth of a second apart."""

    def ticks() -> int:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    seen: list[int] = []

    def is_idle() -> bool:
        seen.append(ticks())
        return len(seen) > 20 and seen[-20] == seen[-1]

    wait_for("the trainer to wait", is_idle)


def test_a_loader_that_is_not_there_is_named(tmp_path: Path) -> None:
    silent = ["--loader", "tcp://127.0.0.1:9", "--loader-timeout", "0.5"]
    result = invoke(*OPTIONS, *silent, "--run", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "tcp://127.0.0.1:9" in (last := result.stderr.splitlines()[-1])
    assert "alexnet-loader" in last
    assert not (tmp_path / "run").exists()


def test_a_resume_from_nowhere_is_one_clear_line(tmp_path: Path) -> None:
    result = invoke("--cpu", "--resume", "--run", tmp_path / "nowhere")
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "nowhere holds no checkpoint" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu_and_no_word_of_the_cpu_is_an_error_that_says_so() -> None:
    result = invoke()
    assert result.exit_code == 2
    assert result.stderr == "alexnet-trainer: error: no GPU found; pass --cpu to compute on the CPU\n"
