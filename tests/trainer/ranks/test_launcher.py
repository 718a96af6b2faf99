"""Ranks under torch's agent: ranks are processes, small ones, and the launcher is this one."""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from common.errors import AlexNetError, UsageError
from tests.support import small_rank
from tests.support.processes import alive, children, wait_for
from tests.support.rank_processes import free_port
from trainer.ranks import agent, launcher
from trainer.ranks.launcher import Launch, launch


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "TORCHELASTIC_SIGNALS_TO_HANDLE", "ALEXNET_LAUNCHER"):
        monkeypatch.setenv(name, "")  # and is gone after the test
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    return tmp_path / "told"


def start(told: Path, *acts: str, ranks: int = 2, restarts: int = 2) -> int:
    command = [sys.executable, small_rank.__file__, str(told), *acts]
    return launch(command, Launch(ranks, 1, None, "test", restarts))


def lives(told: Path) -> Counter[str]:
    return Counter(line.split()[1] for line in told.read_text().splitlines())


def test_ranks_share_the_cores_of_their_host(told: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert start(told, ranks=3) == 0
    assert sorted(line.split()[:3] for line in told.read_text().splitlines()) == [
        [str(rank), "0", "2"] for rank in range(3)
    ]
    assert capfd.readouterr() == ("", "")


def test_a_lost_rank_restarts_all_and_the_log_names_it(
    told: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start(told, "0:wait:0", "1:killed:0", "0:deserted:1", "1:wait:1") == 0
    assert lives(told)["2"] == 2
    ports = {line.split()[1]: line.split()[3] for line in told.read_text().splitlines() if "saved" not in line}
    assert len(set(ports.values())) == 3, "a store that dead ranks wrote to is not read again"
    assert [record.message for record in caplog.records if record.name.startswith("trainer")] == [
        "rank 1 was ended by SIGKILL; all ranks restart, for the first time",
        "hears nothing; all ranks restart, for the second time",
    ]
    out, err = capfd.readouterr()
    assert out == "".join(line for line in err.splitlines() if " alexnet-" not in line) == ""


def test_once_restarts_are_used_up_the_first_that_failed_has_the_last_word(told: Path) -> None:
    with pytest.raises(AlexNetError, match=r"^rank 1 was ended by SIGKILL; .*--restarts 1\)$") as failed:
        start(told, "0:last", "0:deserted", "1:killed", restarts=1)
    assert failed.value.exit_code == 1
    assert set(lives(told)) - {"saved"} == {"0", "1"}


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [("misused", UsageError, "--this is wrong"), ("starved", AlexNetError, "no loader answers")],
)
def test_an_error_with_words_of_its_own_ends_the_run_once(
    told: Path, act: str, error: type[AlexNetError], words: str
) -> None:
    with pytest.raises(error) as failed:
        start(told, "0:last", "0:deserted", f"1:{act}")
    assert (str(failed.value), failed.value.exit_code) == (words, error.exit_code)
    assert set(lives(told)) <= {"0", "saved"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_is_passed_on_once_and_ranks_may_take_their_time(told: Path, number: int) -> None:
    before = signal.getsignal(number)
    assert start(told, "0:wait", "1:late", f"1:{number:d}") == 128 + number
    assert sorted(line for line in told.read_text().splitlines() if "saved" in line) == [
        f"{rank} saved {number:d}" for rank in range(2)
    ]
    assert signal.getsignal(number) == before


def test_a_signal_that_ends_a_rank_before_it_could_save_ends_the_run_as_asked(told: Path) -> None:
    assert start(told, "0:deaf", "1:late", f"1:{signal.SIGTERM:d}") == 143
    assert lives(told) == {"0": 2, "saved": 1}


def test_a_rank_that_hangs_when_the_others_have_saved_is_killed(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "_LATE_S", 0.1)
    assert start(told, "0:hangs", "1:late", f"1:{signal.SIGTERM:d}") == 143
    assert lives(told) == {"0": 2, "saved": 1}


def test_a_signal_before_the_launcher_waits_for_nodes_ends_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt(_: logging.LogRecord) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    caplog.set_level(logging.INFO, launcher.__name__)
    monkeypatch.setattr(launcher.log, "filters", [interrupt])
    assert launch(["false"], Launch(1, 2, f"127.0.0.1:{free_port()}", "test", 0)) == 143


def start_in(folder: Path, told: Path, *acts: str) -> None:
    tempfile.tempdir = str(folder)
    start(told, *acts)


def test_no_rank_outlives_its_launcher_and_the_next_deletes_its_files(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.ranks.launcher"])
    launcher = context.Process(target=start_in, args=(temporary, told, "0:wait", "1:wait"))
    launcher.start()
    wait_for("both ranks", lambda: told.exists() and len(told.read_text().splitlines()) == 2)
    ranks = children(launcher.pid or 0)
    launcher.kill()
    launcher.join()
    wait_for("the end of both", lambda: not any(map(alive, ranks)))
    assert len(ranks) == 2
    assert "saved" not in told.read_text()
    (left,) = temporary.glob("alexnet-ranks-*")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    os.utime(left, (0, 0))
    assert start(told) == 0
    assert not any(temporary.glob("alexnet-ranks-*"))
