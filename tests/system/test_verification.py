"""A file that is touched while it is served: a process of its own reads it again."""

import errno
import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loader.dataset import Dataset, FileTouched
from loader.records import HEAD
from loader.service import verification
from loader.service.verification import Verifications
from loader.workers import link
from tests.support.processes import children, command_line, wait_for


@pytest.fixture
def dataset(packed: Path, tmp_path: Path) -> Iterator[Dataset]:
    with Dataset(Path(shutil.copy(packed / "train.lmdb", tmp_path))) as dataset:
        yield dataset


def verifiers() -> list[int]:
    return [pid for pid in children(os.getpid()) if "loader.workers.verifier" in command_line(pid)]


def settled(verifications: Verifications) -> bool:
    verifications.look()
    return not verifications.waits("train")


def test_a_touched_file_is_handed_over_at_its_new_version_whatever_kills_the_process_that_reads_it(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(verification, "_PAUSE_S", 0.0)
    handed: list[str] = []
    verifications = Verifications({"train": dataset}, handed.append)
    os.utime(dataset.path)
    with pytest.raises(FileTouched):
        dataset.refuse_changes()
    verifications.touched("train")
    for ended, number in enumerate((signal.SIGKILL, signal.SIGSTOP)):
        wait_for("a process", lambda: not settled(verifications) and verifiers())
        os.kill(verifiers()[0], number)
        while caplog.text.count("ended (by SIGKILL)") == ended and not settled(verifications):
            time.sleep(0.01)
    with caplog.at_level(logging.INFO):
        wait_for("the verdict", lambda: settled(verifications))
    assert (handed, verifiers(), verifications.fault("train")) == (["train"], [], None)
    assert f"{dataset.path} is the dataset it was" in caplog.text
    assert caplog.text.count("ended (by SIGKILL)") == 2
    dataset.refuse_changes()
    verifications.touched("train")  # by a worker that was busy meanwhile
    assert not verifications.waits("train")


def test_a_process_that_cannot_be_told_the_file_makes_way_for_another(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures, send = [OSError(errno.ENOBUFS, "no memory")], link.send

    def send_after_failures(*message: Any) -> None:
        if failures:
            raise failures.pop()
        send(*message)

    monkeypatch.setattr(verification, "_PAUSE_S", 0.0)
    monkeypatch.setattr(link, "send", send_after_failures)
    handed: list[str] = []
    verifications = Verifications({"train": dataset}, handed.append)
    os.utime(dataset.path)
    verifications.touched("train")
    wait_for("the verdict", lambda: settled(verifications))
    assert (handed, verifiers()) == (["train"], [])


def test_a_file_whose_records_changed_is_refused(dataset: Dataset) -> None:
    _, jpeg = dataset.read(dataset.records - 1)
    at = dataset.path.read_bytes().index(jpeg) - HEAD.size
    with dataset.path.open("r+b") as file:
        file.seek(at)
        file.write(b"other")
    handed: list[str] = []
    verifications = Verifications({"train": dataset}, handed.append)
    verifications.touched("train")
    wait_for("the verdict", lambda: settled(verifications))
    assert "another dataset now" in (verifications.fault("train") or "")
    assert handed == []


def test_a_file_over_which_process_after_process_ends_is_refused(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_PAUSE_S", 0.0)
    verifications = Verifications({"train": dataset}, lambda split: None)
    os.utime(dataset.path)
    verifications.touched("train")
    while not settled(verifications):
        for pid in verifiers():
            os.kill(pid, signal.SIGKILL)
    assert "cannot be verified: that ended by SIGKILL; restart the loader" in (verifications.fault("train") or "")
