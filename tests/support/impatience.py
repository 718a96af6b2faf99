"""A service that gives a silent client up within a second: its heartbeat is a setting of a connection's both ends.

The service is the real one; what it imports first shortens one constant.
"""

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
    """Let every service started from now on be so."""
    hooks = folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(_HOOK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(hooks), os.environ.get("PYTHONPATH")])))
