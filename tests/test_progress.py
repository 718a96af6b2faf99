"""The progress line, on a terminal and elsewhere."""

import io

import pytest

from trainer.progress import PLAIN_INTERVAL_S, Now, Progress, duration

NOW = Now(
    epoch=2,
    epochs=12,
    step_of_epoch=5,
    steps_per_epoch=63,
    images_per_s=1234.5,
    loss=1.5,
    error=0.5,
    wait_share=0.25,
    eta_s=200.0,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_says_where_training_stands() -> None:
    line = NOW.line()
    assert line == (
        "epoch 3/12  step 5/63  1,234 images/s  loss 1.500  error 50.0 %  waiting for data 25.0 %  ETA 3m20s"
    )


def test_elsewhere_than_on_a_terminal_a_line_comes_now_and_then() -> None:
    now_s = 0.0
    stream = io.StringIO()
    progress = Progress(stream, now_s=lambda: now_s)
    for second in range(25):
        now_s = float(second)
        progress.show(f"second {second}")
    assert PLAIN_INTERVAL_S == 10
    assert stream.getvalue() == "second 10\nsecond 20\n"


def test_on_a_terminal_one_line_renews_itself_and_makes_way() -> None:
    now_s = 0.0
    stream = Terminal()
    progress = Progress(stream, now_s=lambda: now_s)
    for now_s in (0.0, 1.0):  # noqa: B007 (read by the clock)
        progress.show("at work")
    progress.line("epoch 1/2: done")
    assert stream.getvalue() == "\r\x1b[Kat work\r\x1b[Kat work\r\x1b[Kepoch 1/2: done\n"


def test_a_terminal_line_is_cut_to_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    Progress(stream).show("x" * 300)
    assert stream.getvalue() == "\r\x1b[K" + "x" * 19


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3599.7, "1h00m"), (7500, "2h05m"), (273600, "3d04h")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
