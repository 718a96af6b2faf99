"""The progress line, on a terminal and elsewhere."""

import io

import pytest

from common.cli.progress import PLAIN_INTERVAL_S, ProgressBar, ProgressLine, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_a_line_comes_now_and_then() -> None:
    now_s = 0.0
    stream = io.StringIO()
    progress = ProgressLine(stream, now_s=lambda: now_s)
    for second in range(25):
        now_s = float(second)
        progress.show(f"second {second}")
    assert PLAIN_INTERVAL_S == 10
    assert stream.getvalue() == "second 10\nsecond 20\n"


def test_on_a_terminal_one_line_renews_itself_and_makes_way() -> None:
    now_s = 0.0
    stream = Terminal()
    progress = ProgressLine(stream, now_s=lambda: now_s)
    for now_s in (0.0, 1.0):  # noqa: B007 (read by the clock)
        progress.show("at work")
    progress.line("epoch 1/2: done")
    assert stream.getvalue() == "\r\x1b[Kat work\r\x1b[Kat work\r\x1b[Kepoch 1/2: done\n"


def test_a_terminal_line_is_cut_to_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    ProgressLine(stream).show("x" * 300)
    assert stream.getvalue() == "\r\x1b[K" + "x" * 19


def test_a_count_tells_share_rate_and_remaining_time_of_this_run_alone() -> None:
    now_s = 0.0
    stream = Terminal()
    with ProgressBar("pack", 4000, done=1000, stream=stream, now_s=lambda: now_s) as progress:
        now_s = 10.0
        progress.count(2000, ", 3 skipped")
        progress.count(3000)  # not due yet
    assert stream.getvalue() == "\r\x1b[Kpack: 2,000 of 4,000 (50 %), 100 a second, 20s left, 3 skipped\r\x1b[K"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3599.7, "1h00m"), (7500, "2h05m"), (273600, "3d04h")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
