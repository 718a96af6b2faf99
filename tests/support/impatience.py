"""The real service with a heartbeat timeout of a second, by a sitecustomize hook."""

import os
from pathlib import Path

import pytest

_HOOK = """
import sys

if "loader.cli.serve_command" in sys.orig_argv:
    from common.wire import sockets

    assert sockets._HEARTBEAT_TIMEOUT_MS > 1000
    sockets._HEARTBEAT_MS, sockets._HEARTBEAT_TIMEOUT_MS = 300, 1000
"""


def impatient(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Shorten the timeout of every service started from now on."""
    hooks = folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(_HOOK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(hooks), os.environ.get("PYTHONPATH")])))
