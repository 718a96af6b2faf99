"""The trainer's command as a process, on a real loader service."""

import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from tests.support.checkpoints import same_tensors
from tests.support.processes import LoaderProcess, wait_for
from tests.support.trainer_process import OPTIONS, finish, start, steps_told, wait_for_steps
from trainer.checkpoints import checkpoint
from trainer.cli.train_command import main
from trainer.recipes.named import DEMO, SOURCE
from trainer.recipes.recipe_file import to_toml
from trainer.training.metrics import FILE_NAME, read


@pytest.fixture(scope="module")
def loader(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with LoaderProcess(packed, tmp_path_factory.mktemp("loader"), workers=1) as service:
        yield service


def test_a_run_ends_with_its_errors_and_its_folder(loader: LoaderProcess, tmp_path: Path) -> None:
    code, out, err = finish(start(*OPTIONS, "--epochs", "1", "--loader", loader.endpoint, cwd=tmp_path))
    assert code == 0, err
    assert len(out) == 1
    last_line = re.fullmatch(
        r"trained 1 epochs?: validation top-1 error [\d.]+ %, top-5 error [\d.]+ %; run in (runs/demo-\S+)", out[0]
    )
    assert last_line is not None, out[0]
    assert (tmp_path / last_line[1] / checkpoint.BEST).exists()
    assert any(line.startswith("epoch 1/1: loss") for line in err), "plain lines, as this is no terminal"
    assert "  the lowest validation error so far" in err
    assert any(re.match(r"  waited [\d.]+ % of the time for data: \w", line) for line in err), err


def test_exact_noise_reaches_the_network_in_float32(loader: LoaderProcess, tmp_path: Path) -> None:
    losses = []
    for pixels in ("uint8", "float32"):
        loud = tuple(replace(phase, sigma=2.0) for phase in DEMO.phase)  # so that bytes clip a good part of the values
        (path := tmp_path / f"{pixels}.toml").write_text(to_toml(replace(DEMO, width=0.02, pixels=pixels, phase=loud)))
        asked = [*OPTIONS[:1], *OPTIONS[5:], "--recipe", str(path), "--loader", loader.endpoint, "--steps", "3"]
        result = CliRunner().invoke(main, [*asked, "--run", str(tmp_path / pixels), "--digest", "verify"])
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
    result = CliRunner().invoke(main, [*asked, "--run", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "nothing was saved; start again with a lower --lr" in result.stderr.splitlines()[-1]
    assert "lowest validation error" not in result.stderr
    assert list((tmp_path / "run").glob("*.safetensors")) == []


def test_a_recipe_that_the_memory_cannot_hold_is_one_line_and_exit_code_2(
    loader: LoaderProcess, tmp_path: Path
) -> None:
    (path := tmp_path / "wide.toml").write_text(to_toml(replace(SOURCE, width=16.0)))
    result = CliRunner().invoke(main, ["--cpu", "--recipe", str(path), "--loader", loader.endpoint])
    assert result.exit_code == 2
    assert re.search(r"error: recipe source at width 16 has [\d,]+ weights.*try a smaller --width", result.stderr)


@pytest.fixture(scope="module")
def undisturbed(loader: LoaderProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run of 30 steps that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    options = [*OPTIONS, "--loader", loader.endpoint, "--steps", "30", "--run", "run"]
    assert finish(start(*options, cwd=folder))[0] == 0
    return checkpoint.newest(folder / "run")


def resume_to_step_30(loader: LoaderProcess, folder: Path) -> Path:
    options = ["--cpu", "--loader", loader.endpoint, "--run", "run", "--resume", "--log-steps", "1", "--steps", "30"]
    code, _, err = finish(start(*options, cwd=folder))
    assert code == 0, err
    return checkpoint.newest(folder / "run")


def test_a_stopped_and_resumed_run_ends_with_the_bits_of_an_undisturbed_one(
    loader: LoaderProcess, undisturbed: Path, tmp_path: Path
) -> None:
    stopped = start(*OPTIONS, "--loader", loader.endpoint, "--run", "run", cwd=tmp_path)
    wait_for_steps(stopped, tmp_path / "run", 3)
    stopped.send_signal(signal.SIGTERM)
    code, out, err = finish(stopped)
    assert code == 128 + signal.SIGTERM, err
    assert re.search(r"stopped by SIGTERM after step \d+; saved in \S+; --resume", out[-1])
    assert 3 <= checkpoint.load(checkpoint.newest(tmp_path / "run")).state.step < 30
    assert same_tensors(resume_to_step_30(loader, tmp_path), undisturbed)
    assert steps_told(tmp_path / "run") == list(range(1, 31))


def test_a_killed_trainer_goes_on_from_its_last_checkpoint(
    loader: LoaderProcess, undisturbed: Path, tmp_path: Path
) -> None:
    options = [*OPTIONS, "--loader", loader.endpoint, "--checkpoint-minutes", "0", "--run", "run"]
    killed = start(*options, cwd=tmp_path)
    wait_for_steps(killed, tmp_path / "run", 6)
    killed.kill()
    killed.communicate()
    assert same_tensors(resume_to_step_30(loader, tmp_path), undisturbed)
    assert steps_told(tmp_path / "run") == list(range(1, 31))


def test_a_loader_that_dies_ends_the_run_with_its_cause_and_a_checkpoint(packed: Path, tmp_path: Path) -> None:
    with LoaderProcess(packed, tmp_path, workers=1) as service:
        trainer = start(*OPTIONS, "--loader", service.endpoint, "--loader-timeout", "2", "--run", "run", cwd=tmp_path)
        wait_for_steps(trainer, tmp_path / "run", 3)
        service.process.kill()
        code, _, err = finish(trainer)
    assert code == 1
    assert re.search(r"error: no response from tcp://.*; the run is saved in run/checkpoint-\S+, and --resume", err[-1])
    assert checkpoint.load(checkpoint.newest(tmp_path / "run")).state.step >= 3


def test_a_ctrl_c_while_the_loader_is_silent_is_not_kept_waiting(packed: Path, tmp_path: Path) -> None:
    with LoaderProcess(packed, tmp_path, workers=1) as service:
        trainer = start(
            *OPTIONS, "--loader", service.endpoint, "--loader-timeout", "3600", "--run", "run", cwd=tmp_path
        )
        wait_for_steps(trainer, tmp_path / "run", 3)
        service.process.kill()
        wait_until_idle(trainer)
        trainer.send_signal(signal.SIGINT)
        code, out, err = finish(trainer)
    assert code == 128 + signal.SIGINT, err
    assert "stopped by SIGINT" in out[-1]


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
    code, out, err = finish(
        start(*OPTIONS, "--loader", "tcp://127.0.0.1:9", "--loader-timeout", "1", "--run", "run", cwd=tmp_path)
    )
    assert (code, out) == (1, [])
    assert "tcp://127.0.0.1:9" in err[-1]
    assert "alexnet-loader" in err[-1]
    assert not (tmp_path / "run").exists()


def test_a_resume_from_nowhere_is_one_clear_line(tmp_path: Path) -> None:
    code, out, err = finish(start("--cpu", "--resume", "--run", "nowhere", cwd=tmp_path))
    assert (code, out) == (2, [])
    assert len(err) == 1
    assert "nowhere holds no checkpoint" in err[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu_and_no_word_of_the_cpu_is_an_error_that_says_so(tmp_path: Path) -> None:
    code, _, err = finish(start(cwd=tmp_path))
    assert code == 2
    assert err == ["alexnet-trainer: error: no GPU found; pass --cpu to compute on the CPU"]


def test_without_any_loader_the_trainer_waits_says_so_and_goes_on_when_one_is_back(
    packed: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with LoaderProcess(packed, tmp_path, workers=1) as service:
        endpoint = service.endpoint
        trainer = start(*OPTIONS, "--loader", endpoint, "--run", "run", "--steps", "30", cwd=tmp_path)
        wait_for_steps(trainer, tmp_path / "run", 3)
        service.signal(signal.SIGKILL)
    assert trainer.stderr is not None
    said = next(line for line in trainer.stderr if "waiting for the loader" in line)
    assert re.search(r"epoch 0, positions \d+\.\. for \d+ s", said)
    with LoaderProcess(packed, tmp_path, 2, endpoint):
        assert finish(trainer)[0] == 0
    assert same_tensors(checkpoint.newest(tmp_path / "run"), undisturbed)


def test_a_loader_that_does_not_come_back_ends_the_run_with_a_checkpoint_and_exit_code_1(
    packed: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with LoaderProcess(packed, tmp_path, workers=1) as service:
        options = [*OPTIONS, "--loader", service.endpoint, "--run", "run", "--loader-timeout", "0.5"]
        trainer = start(*options, cwd=tmp_path)
        wait_for_steps(trainer, tmp_path / "run", 3)
        service.signal(signal.SIGKILL)
        code, _, err = finish(trainer)
    assert code == 1
    last_line = re.search(
        r"error: no response from tcp.*--loader-timeout.*; the run is saved in (\S+), and --resume", err[-1]
    )
    assert last_line is not None, err[-1]
    assert 3 <= checkpoint.load(tmp_path / last_line[1]).state.step < 30
