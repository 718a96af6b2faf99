"""Linux alone: elsewhere whatever a user can start says so in one line, before it could fail for another reason."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.client.client import LoaderClient
from common.errors import UsageError
from tests.support.paths import ROOT

EVERY_COMMAND = """
import sys
for name in ("fcntl", "resource", "termios", "click", "numpy"):
    sys.modules[name] = None  # an import of it fails
import loader.cli, trainer.cli
sys.platform = sys.argv[1]
for command in (loader.cli.pack, loader.cli.loader, trainer.cli.trainer, trainer.cli.evaluate, trainer.cli.report):
    try:
        command()
    except SystemExit as end:
        print("exit code", end.code, flush=True)
"""


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_every_command_says_on_another_system_that_it_runs_on_linux_only(platform: str) -> None:
    command = [sys.executable, "-c", EVERY_COMMAND, platform, "--help"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    names = ("alexnet-pack", "alexnet-loader", "alexnet-trainer", "alexnet-evaluate", "alexnet-report")
    told = (f"{name}: error: AlexNet runs on Linux only, and this is {platform}\nexit code 2\n" for name in names)
    assert ended.stdout == "".join(told)


def test_a_client_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UsageError, match="on Linux only, and this is darwin"):
        LoaderClient("tcp://127.0.0.1:9")


@pytest.mark.parametrize("script", ["deploy/run_cluster.sh", "tests/run.sh"])
def test_the_scripts_say_so_too_and_set_nothing_up(tmp_path: Path, script: str) -> None:
    (uname := tmp_path / "uname").write_text("#!/bin/sh\necho Darwin\n")
    uname.chmod(0o755)
    elsewhere = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run([ROOT / script], env=elsewhere, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"{Path(script).name}: error: AlexNet runs on Linux only, and this is Darwin\n"
