"""The README's promises that can be run in a moment."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.paths import ROOT
from tests.support.processes import LoaderProcess

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_example_feeds_a_plain_pytorch_model(packed: Path, tmp_path: Path) -> None:
    (example,) = blocks("python")
    with LoaderProcess(packed, tmp_path) as service:
        names: dict[str, object] = {}
        exec(compile(example.replace("tcp://127.0.0.1:5555", service.endpoint), "README.md", "exec"), names)
    assert names["loss"].item() > 0  # type: ignore[attr-defined]


def test_every_command_has_the_options_that_are_shown() -> None:
    from loader.cli.pack_command import main as pack
    from loader.cli.serve_command import main as loader
    from trainer.cli.evaluate_command import main as evaluate
    from trainer.cli.train_command import main as trainer

    commands = {
        "alexnet-pack": pack,
        "alexnet-loader": loader,
        "alexnet-trainer": trainer,
        "alexnet-evaluate": evaluate,
    }
    helps = {name: CliRunner().invoke(command, ["--help"]).output for name, command in commands.items()}
    for sub in loader.commands:
        helps[f"alexnet-loader {sub}"] = CliRunner().invoke(loader, [sub, "--help"]).output
    shown = [line.split("#")[0] for block in blocks("") for line in block.splitlines() if line.startswith("alexnet-")]
    shown += re.findall(r"`(alexnet-[^`]*)`", README)
    calls = [words for line in shown if (words := shlex.split(line)) and words[0] in commands]
    assert len(calls) > 5
    for name, *words in calls:
        if words and f"{name} {words[0]}" in helps:
            name, *words = f"{name} {words[0]}", *words[1:]
        for option in (word for word in words if word.startswith("--")):
            assert f"{option} " in helps[name] + " ", f"{name} has no {option}"


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:loader|trainer|common|deploy|tests)/[\w/]+\.\w+)`", README)))
)
def test_every_file_named_is_there(path: str) -> None:
    assert (ROOT / path).is_file()


def test_every_test_named_is_there() -> None:
    there = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    named = set(re.findall(r"`(test_\w+)`", README))
    assert len(named) > 5
    assert named <= there
