"""The READMEs: examples run; every file, option and extra they name exists; the front door is short."""

import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.paths import ROOT
from tests.support.processes import LoaderProcess

ROOMS = ("common", "deploy", "loader", "tests", "trainer")
READMES = [ROOT / "README.md", *sorted(path for room in ROOMS for path in (ROOT / room).rglob("README.md"))]
each_readme = pytest.mark.parametrize("readme", READMES, ids=lambda path: path.relative_to(ROOT).as_posix())

# Commands whose options are not ours.
OTHERS = ("buildah", "docker", "kubectl", "pip", "sbatch", "scancel", "tensorboard", "torchrun", "#SBATCH")
SUFFIXES = (".py", ".sh", ".md", ".svg", ".bin", ".jinja", ".png")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def blocks(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def prose_of(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """Inline code, each on one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose_of(text))]


def commands(text: str) -> Iterator[str]:
    """Lines of blocks and inline code, without comments."""
    for line in [line for block in blocks(text) for line in block.splitlines()] + spans(text):
        ours, _, trainers = line.partition(" #")[0].partition(" -- ")
        yield from (ours.strip(), f"alexnet-trainer {trainers}")


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """Options of each command and script: its --help, or the source of its parser."""
    from loader.cli.pack_command import main as pack
    from loader.cli.serve_command import main as loader
    from trainer.cli.evaluate_command import main as evaluate
    from trainer.cli.export_command import main as export
    from trainer.cli.predict_command import main as predict
    from trainer.cli.report_command import main as report
    from trainer.cli.train_command import main as trainer

    groups = {
        "alexnet-pack": pack,
        "alexnet-loader": loader,
        "alexnet-trainer": trainer,
        "alexnet-evaluate": evaluate,
        "alexnet-export": export,
        "alexnet-predict": predict,
        "alexnet-report": report,
    }
    found = {name: CliRunner().invoke(command, ["--help"]).output for name, command in groups.items()}
    for sub in loader.commands:
        found[f"alexnet-loader {sub}"] = CliRunner().invoke(loader, [sub, "--help"]).output
    for path in [ROOT / "deploy/run_cluster.sh", *(ROOT / "tests/bench").glob("*.py")]:
        found[path.relative_to(ROOT).as_posix()] = path.read_text()
    return found


def taker(line: str, helps: dict[str, str]) -> str | None:
    """Return the key in `helps` of the command that `line` calls, if it calls one of ours."""
    words = [word for word in line.split() if word != "python"]
    names = (" ".join(words[:2]), words[0] if words else "")
    return next((name for name in names if name in helps), None)


def test_the_examples_run_against_a_loader(service: LoaderProcess) -> None:
    examples = [example for readme in READMES for example in blocks(readme.read_text(), "python")]
    examples = [example for example in examples if "tcp://" in example]
    assert len(examples) > 1
    for example in examples:
        names: dict[str, object] = {}
        exec(compile(example.replace("tcp://127.0.0.1:5555", service.endpoint), "README.md", "exec"), names)
        batch: Any = names["batch"]
        images, labels = (batch.images, batch.labels) if hasattr(batch, "images") else batch
        assert len(images) == len(labels) > 0


@each_readme
def test_every_option_shown_exists(readme: Path, helps: dict[str, str]) -> None:
    every = "\n".join(helps.values())
    for line in commands(readme.read_text()):
        if line.split(" ")[0] in OTHERS:
            continue
        name = taker(line, helps)
        words = shlex.split(line) if name else [line]
        for option in OPTION.findall(" ".join(words)):
            where = helps[name] if name else every
            assert re.search(rf"{option}(?![\w-])", where), f"{name or 'no command'} has no {option}: {line}"


@each_readme
def test_every_file_named_exists(readme: Path) -> None:
    text = readme.read_text()
    words = {word for span in spans(text) for word in span.split()}
    named = {word for word in words if word.endswith(SUFFIXES) or word.startswith(tuple(f"{room}/" for room in ROOMS))}
    links = set(re.findall(r"\]\((?!https?:)([^)]+)\)", text))
    for path in named | links:
        assert (readme.parent / path).exists() or (ROOT / path).exists(), path


def tree_of(block: str) -> Iterator[tuple[str, ...]]:
    """The paths of an annotated tree, a folder's with an empty name at the end."""
    parents: list[tuple[int, str]] = []
    for line in block.splitlines():
        depth, name = len(line) - len(line.lstrip()), line.split()[0]
        while parents and parents[-1][0] >= depth:
            parents.pop()
        yield (*(parent for _, parent in parents), *name.split("/"))
        if name.endswith("/"):
            parents.append((depth, name.rstrip("/")))


@pytest.mark.parametrize("readme", READMES[1:], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_tree_has_every_file_of_the_folders_it_shows(readme: Path) -> None:
    shown = {"/".join(path) for path in tree_of(blocks(readme.read_text())[0])}
    assert f"{readme.parent.relative_to(ROOT).as_posix()}/" in shown
    for path in shown:
        assert (ROOT / path).exists(), path
    for folder in {path.rpartition("/")[0] for path in shown if not path.endswith("/")}:
        there = {path.name for path in (ROOT / folder).glob("*.*") if path.suffix in (*SUFFIXES, ".txt")}
        there -= {"__init__.py", "README.md", "conftest.py"}
        assert {f"{folder}/{name}" for name in there} <= shown, folder


@each_readme
def test_extras_exist(readme: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for named in re.findall(r"alexnet\[([\w,]+)\]", readme.read_text()):
        assert set(named.split(",")) <= set(extras)


def test_the_table_of_links_is_what_its_command_computes() -> None:
    computed = runpy.run_path(str(ROOT / "tests/bench/links.py"))["table"]()
    assert computed in (ROOT / "deploy/README.md").read_text()


def test_the_front_door_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@each_readme
def test_rows_fit_a_screen_and_words_are_those_of_the_field(readme: Path) -> None:
    text = readme.read_text()
    for line in text.splitlines():
        assert not line.startswith("|") or len(line) <= 200, line
    prose = re.sub(r"`[^`]+`", "", prose_of(text))
    assert not re.search(r"\b(pictures?|data sets?)\b", prose, re.IGNORECASE)
