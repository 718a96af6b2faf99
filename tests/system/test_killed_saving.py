"""A trainer killed in the midst of its saves, one kill after the other, and resumed each time with other hosts and
workers, ends as one that nothing happened to.
"""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import same_tensors
from tests.support.dying import DEATHS
from tests.support.paths import ROOT
from tests.support.processes import LoaderProcess
from tests.support.tiny_run import lines, without_times
from tests.support.trainer_process import invoke
from trainer.checkpoints import checkpoint
from trainer.checkpoints.files import PARTIAL

NEW = ["--recipe", "demo", "--width", "0.02", "--batch-size", "50"]  # 3 steps an epoch
LIMITS = ["--steps", "12", "--checkpoint-minutes", "0", "--log-steps", "1"]
DEATHS_IN_TURN = (("link", 1), ("write", 3), ("name", 2), ("prune", 2))


@pytest.fixture
def loaders(packed: Path, tmp_path: Path) -> Iterator[list[list[str]]]:
    """Options of one loader, of another, of both."""
    with LoaderProcess(packed, tmp_path, workers=1) as one, LoaderProcess(packed, tmp_path, workers=2) as other:
        first, second = ["--loader", one.endpoint], ["--loader", other.endpoint]
        yield [first, second, [*first, *second]]


def history(run: Path) -> dict[str, list[dict[str, Any]]]:
    return {kind: without_times(lines(run, kind)) for kind in ("step", "epoch")}


def test_a_trainer_killed_while_saving_naming_linking_and_pruning_ends_with_the_same_bits_and_metrics(
    loaders: list[list[str]], tmp_path: Path
) -> None:
    common = ["--cpu", "--threads", "1", *LIMITS]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert invoke(*common, *loaders[0], *NEW, "--run", undisturbed).exit_code == 0
    how_to_begin, left_behind = NEW, list[str]()
    for (moment, times), of in zip(DEATHS_IN_TURN, itertools.cycle(loaders), strict=False):
        options = [*common, *of, *how_to_begin, "--run", str(killed)]
        process = subprocess.run(
            [sys.executable, "-m", "tests.support.dying", moment, str(times), *options],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert process.returncode in DEATHS, (moment, process.stderr)
        left_behind += [path.name for path in killed.glob(f"*{PARTIAL}")]
        how_to_begin = ["--resume"]
    assert len(left_behind) == 2, "one was half written, one had no name yet"
    result = invoke(*common, *loaders[0], "--resume", "--run", killed)
    assert result.exit_code == 0, result.output
    assert "passed over" not in result.output
    for newest_of in (checkpoint.newest, lambda run: run / checkpoint.BEST):
        assert same_tensors(newest_of(killed), newest_of(undisturbed))
        assert checkpoint.load(newest_of(killed)).state == checkpoint.load(newest_of(undisturbed)).state
    assert history(killed) == history(undisturbed)
    assert sorted(path.name for path in killed.iterdir()) == sorted(path.name for path in undisturbed.iterdir())
