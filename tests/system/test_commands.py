"""Every command, before any work is done: quick help, and one clear line for a wrong option."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from loader.cli.pack_command import main as pack
from loader.cli.serve_command import main as loader
from trainer.cli.evaluate_command import main as evaluate
from trainer.cli.export_command import main as export
from trainer.cli.predict_command import main as predict
from trainer.cli.report_command import main as report
from trainer.cli.train_command import main as trainer

BIN = Path(sys.executable).parent
COMMANDS = (
    "alexnet-pack",
    "alexnet-loader",
    "alexnet-trainer",
    "alexnet-evaluate",
    "alexnet-predict",
    "alexnet-report",
    "alexnet-export",
)
FOUND = dict(zip(COMMANDS, (pack, loader, trainer, evaluate, predict, report, export), strict=True))
WRONG = {  # a command, and what its error names
    "alexnet-pack --nonsense": "--nonsense",
    "alexnet-pack": "SOURCE|DATA|missing|Missing",
    "alexnet-pack no-such-photos data": "no-such-photos",
    "alexnet-pack --info no-such-data": "no-such-data",
    "alexnet-pack --demo": "DATA|missing|Missing",
    "alexnet-pack --on-bad shrug photos data": "shrug",
    "alexnet-loader --nonsense": "--nonsense",
    "alexnet-loader --workers 0": "workers",
    "alexnet-loader --workers many": "many",
    "alexnet-loader --decoded-gib -1": "decoded-gib",
    "alexnet-loader --decoded-gib nan": "decoded-gib",
    "alexnet-loader --data no-such-data": "no-such-data",
    "alexnet-loader --bind tcp://0.0.0.0:*": "--insecure",
    "alexnet-loader --bind tcp://*:*": "--insecure",
    "alexnet-loader --metrics 9400": "HOST:PORT.*--metrics",
    "alexnet-loader --metrics ::1:9400": "HOST:PORT.*--metrics",
    "alexnet-loader --metrics 127.0.0.1:99999": "HOST:PORT.*--metrics",
    "alexnet-loader --metrics 0.0.0.0:9400": "--insecure",
    "alexnet-loader --metrics 127.0.0.1:* --keys keys --insecure": "--insecure",
    "alexnet-loader surplus": "surplus",
    "alexnet-loader --workers 2 keys keys": "workers",
    "alexnet-loader audit": "epoch",
    "alexnet-loader audit --epoch 0 --data no-such-data": "no-such-data",
    "alexnet-loader audit --epoch 0 --crop 300": "crop",
    "alexnet-loader keys": "DIR",
    "alexnet-loader keys keys --client ../bob": "bob",
    "alexnet-trainer --nonsense": "--nonsense",
    "alexnet-trainer --log-level loud": "loud",
    "alexnet-trainer --cpu --recipe lasagne": "lasagne",
    "alexnet-trainer --cpu --epochs 0": "epochs",
    "alexnet-trainer --cpu --on-bad-record shrug": "shrug",
    "alexnet-trainer --cpu --digest perhaps": "perhaps",
    "alexnet-trainer --cpu --batch-size -1": "batch-size",
    "alexnet-trainer --gpus one,two": "one,two",
    "alexnet-trainer --cpu --gpus 0,1": "cpu",
    "alexnet-trainer --cpu --loader nowhere": "nowhere",
    "alexnet-trainer --cpu --resume": "resume",
    "alexnet-trainer --cpu --ranks 0": "ranks",
    "alexnet-trainer --cpu --ranks 3": "3 ranks.*1, 2 or 4",
    "alexnet-trainer --cpu --ranks 2 --parts 6": "--parts 6.*4",
    "alexnet-trainer --cpu --ranks 4 --parts 2": "4 ranks cannot share 2 parts.*1 or 2",
    "alexnet-trainer --cpu --ranks 2 --batch-size 1": "batch of 1.*2 parts",
    "alexnet-trainer --ranks 2 --gpus 0,1": "--gpus-per-rank",
    "alexnet-trainer --cpu --gpus-per-rank 1": "--gpus-per-rank",
    "alexnet-trainer --cpu --ranks 2 --reduce somehow": "somehow",
    "alexnet-trainer --cpu --ranks 2 --rank-timeout 0": "rank-timeout",
    "alexnet-trainer --cpu --ranks 2 --restarts -1": "restarts",
    "alexnet-trainer --cpu --nodes 2 --rendezvous a:29400": "--run",
    "alexnet-trainer --cpu --nodes 2 --run run": "--rendezvous.*missing",
    "alexnet-trainer --cpu --nodes 2 --run run --rendezvous a": "HOST:PORT.* it is a",
    "alexnet-trainer --cpu --nodes 2 --run run --rendezvous a:99999": "HOST:PORT.*99999",
    "alexnet-trainer --cpu --rendezvous a:29400": "--nodes",
    "alexnet-trainer --cpu --resume-if-begun": "--run",
    "alexnet-trainer --cpu --resume-if-begun --resume --run run": "exclude",
    "alexnet-evaluate": "CHECKPOINT",
    "alexnet-evaluate --nonsense": "--nonsense",
    "alexnet-evaluate --cpu no-such-run": "no-such-run",
    "alexnet-evaluate --cpu run --views 5": "views",
    "alexnet-evaluate --cpu run --split test": "split",
    "alexnet-evaluate --cpu run --weights 1,2": "weights",
    "alexnet-evaluate --cpu run --ilsvrc s.txt": "--devkit",
    "alexnet-evaluate --cpu run --ilsvrc s.txt --devkit d --limit 9": "--limit",
    "alexnet-evaluate --cpu run --skipped skipped.jsonl": "--ilsvrc",
    "alexnet-evaluate --cpu run --json no-such-folder/x.json": "no-such-folder",
    "alexnet-predict": "RUN",
    "alexnet-predict run": "IMAGE",
    "alexnet-predict --cpu no-such-run .": "no-such-run",
    "alexnet-predict --cpu run no-such.jpg": "no-such.jpg",
    "alexnet-predict --cpu run . --views both": "views",
    "alexnet-predict --cpu run . --top 0": "top",
    "alexnet-predict --cpu run . --with run --weights 1": "weights",
    "alexnet-predict --cpu run . --words no-such.txt": "no-such.txt",
    "alexnet-predict --cpu run . --csv no-such-folder/x.csv": "no-such-folder",
    "alexnet-predict --cpu run . --csv - --json -": "both",
    "alexnet-report": "RUN",
    "alexnet-report --nonsense": "--nonsense",
    "alexnet-report no-such-run": "no-such-run",
    "alexnet-report . --figures figures": "metrics.jsonl",
    "alexnet-report run --data data --loader tcp://127.0.0.1:9": "--data",
    "alexnet-report run --data no-such-data": "no-such-data",
    "alexnet-report run --every 0": "every",
    "alexnet-report run --out -- run/../run": "RUN|twice",
    "alexnet-export": "RUN",
    "alexnet-export run": "--hub",
    "alexnet-export run --to onnx": "--out",
    "alexnet-export run --out net": "--to",
    "alexnet-export run --to caffe --out net": "caffe",
    "alexnet-export no-such-run --to torch --out net": "no-such-run",
    "alexnet-export run --to torch --out no-such-folder/net": "no-such-folder",
    "alexnet-export run --hub no-such-folder/hub": "no-such-folder",
}
AS_PROCESSES = (  # one of each; the others are the same code in this process
    "alexnet-pack no-such-photos data",
    "alexnet-loader --data no-such-data",
    "alexnet-trainer --cpu --loader nowhere",
    "alexnet-evaluate --cpu no-such-run",
    "alexnet-predict --cpu no-such-run .",
    "alexnet-export no-such-run --to torch --out net",
)
SLOW_IMPORTS = {"torch", "cv2", "lmdb", "scipy", "PIL", "turbojpeg", "matplotlib"}


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, cwd=cwd)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_options_and_imports_nothing_slow(command: str) -> None:
    done = run(sys.executable, "-X", "importtime", BIN / command, "--help")
    imported = set(re.findall(r"\| +(\w+)[\w.]*$", done.stderr, re.MULTILINE))
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: {command} ")
    assert "click" in imported
    assert imported & SLOW_IMPORTS == set()


@pytest.mark.parametrize("command", [*COMMANDS, "alexnet-loader audit", "alexnet-loader keys"])
def test_h_is_help_and_every_command_tells_its_version(command: str) -> None:
    name, *sub = command.split()
    help = run(BIN / name, *sub, "-h").stdout
    assert help.startswith(f"Usage: {command} ")
    assert help.count(f"{command.upper().replace('-', '_').replace(' ', '_')}_LOG_LEVEL") == 1
    assert run(BIN / name, *sub, "--version").stdout == f"{name}, version {version('alexnet')}\n"


def test_help_has_sections_in_the_order_of_use() -> None:
    sections = re.findall(r"^(\w[\w ]*):$", CliRunner().invoke(trainer, ["-h"]).output, re.MULTILINE)
    assert sections == ["Devices", "Training", "Data", "Ranks", "Output", "Inspection", "Messages and help"]


@pytest.mark.parametrize(
    ("variable", "value", "shown"),
    [
        ("ALEXNET_TRAINER_RECIPE", "demo", 'name = "demo"'),
        ("ALEXNET_TRAINER_LR", "0.5", "\nrate = 0.5 "),
        ("ALEXNET_TRAINER_BATCH_SIZE", "17", "batch_size = 17"),
        ("ALEXNET_TRAINER_ABLATE", "tanh no-conv4", 'name = "source+tanh+no-conv4"'),
        ("ALEXNET_TRAINER_LR", "many", "--lr"),
    ],
)
def test_an_environment_variable_sets_an_option_and_the_command_line_takes_precedence(
    variable: str, value: str, shown: str
) -> None:
    assert shown in CliRunner().invoke(trainer, ["--show-recipe"], env={variable: value}).output
    option = f"--{variable.removeprefix('ALEXNET_TRAINER_').lower().replace('_', '-')}"
    given = {"--recipe": "paper", "--lr": "0.25", "--batch-size": "3", "--ablate": "no-dropout"}[option]
    overridden = CliRunner().invoke(trainer, ["--show-recipe", option, given], env={variable: value})
    assert overridden.exit_code == 0
    assert shown not in overridden.output


def test_every_option_of_every_command_has_a_variable_of_its_name() -> None:
    for command in (pack, loader, *loader.commands.values(), trainer, evaluate, predict, report):
        for option in (each for each in command.params if isinstance(each, click.Option) and each.allow_from_autoenv):
            longest = max(option.opts, key=len)
            assert f"--{(option.name or '').replace('_', '-')}" == longest


def completed(script: str, begun: str, cwd: Path) -> set[str]:
    """Bash's completions of `alexnet-trainer --recipe BEGUN<TAB>`."""
    ask = (
        f"PATH={BIN}:$PATH; {script}\nCOMP_WORDS=(alexnet-trainer --recipe '{begun}') COMP_CWORD=2\n"
        "_alexnet_trainer_completion alexnet-trainer; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    return set(run("bash", "-c", ask, cwd=cwd).stdout.splitlines())


def test_a_shell_completes_recipes_by_name_and_file(tmp_path: Path) -> None:
    (tmp_path / "source.toml").touch()
    (tmp_path / "source.txt").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a[1].toml").touch()
    asked = {"_ALEXNET_TRAINER_COMPLETE": "bash_source"}
    script = subprocess.run([BIN / "alexnet-trainer"], env=asked, capture_output=True, text=True).stdout
    assert completed(script, "so", tmp_path) == {"source", "source.toml"}
    assert completed(script, "m", tmp_path) == {"mine/"}
    assert completed(script, "mine/a[", tmp_path) == {"mine/a[1].toml"}
    assert completed(script, "", tmp_path) == {"source", "paper", "cifar10", "demo", "source.toml", "mine/"}


def test_an_import_of_torch_would_be_seen() -> None:
    done = run(sys.executable, "-X", "importtime", "-c", "import lmdb")
    assert "lmdb" in re.findall(r"\| +(\w+)[\w.]*$", done.stderr, re.MULTILINE)


def ended(command: str, folder: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that is run in `folder`, the current one."""
    name, *arguments = command.split()
    if command in AS_PROCESSES:
        done = run(BIN / name, *arguments, cwd=folder)
        return done.returncode, done.stdout, done.stderr
    result = CliRunner().invoke(FOUND[name], arguments)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_option_or_value_gets_one_clear_line_and_exit_code_2(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = ended(command, tmp_path)
    lines = [line for line in err.splitlines() if not line.startswith(("Usage:", "Try "))]
    assert (code, out) == (2, ""), err
    assert len([line for line in lines if line]) == 1, err
    assert re.search(f"(?i)error: .*({WRONG[command]})", lines[-1]), err
    assert list(tmp_path.iterdir()) == []
