"""A record that kills or hangs a real worker, by a sitecustomize hook that replaces its decoder."""

import hashlib
import os
from pathlib import Path

import pytest

from loader.dataset import Dataset

_CHOKE = """
import hashlib, os, signal, sys, time

if "loader.workers.worker" in sys.orig_argv:
    from common.images import jpeg

    decode, does, poison = jpeg.decode, os.environ["POISON_DOES"], os.environ["POISON"]

    def choke(data, *args, **kwargs):
        if hashlib.sha256(data).hexdigest() == poison:
            os.kill(os.getpid(), signal.SIGSEGV) if does == "kills" else time.sleep(10**6)
        return decode(data, *args, **kwargs)

    jpeg.decode = choke
"""


def poison(monkeypatch: pytest.MonkeyPatch, folder: Path, data: Path, record: int, does: str) -> None:
    """Let every worker started from now on fail at `record` of the train split: it "kills" or "hangs"."""
    with Dataset(data / "train.lmdb") as dataset:
        _, jpeg = dataset.read(record)
    hooks = folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(_CHOKE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(hooks), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("POISON", hashlib.sha256(jpeg).hexdigest())
    monkeypatch.setenv("POISON_DOES", does)
