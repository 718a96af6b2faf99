"""The profile's table and trace name every piece, copy and wait."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainer.network.two_halves import TwoHalves
from trainer.recipes.named import SOURCE
from trainer.training.profile import TRACE, WARM_UP, Profile, WatchedStreams, table

CPU = torch.device("cpu")
SIDE = 67
NARROW = replace(SOURCE, width=1 / 16, classes=5, input_size=SIDE, crop=SIDE)


class Run:
    """Steps of a narrow net under a profile, each of half a second of which a quarter was waiting."""

    def __init__(self, profiled: int, folder: Path) -> None:
        self.streams = WatchedStreams()
        self.profile = Profile(profiled, self.streams, folder)
        self._net = TwoHalves(NARROW, seed=0, devices=(CPU, CPU), streams=self.streams)
        self._x = torch.randn(1, 3, SIDE, SIDE)

    def train(self, steps: int) -> None:
        for step in range(steps):
            self.profile.before_step()
            self._net.train_step((self._x, self._x), torch.zeros(1).long(), step=step)
            self.profile.after_step(0.5, 0.125)

    def validate(self) -> None:
        self._net.predict((self._x, self._x))


def told(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(caplog.messages)


def test_a_profile_ends_with_a_trace_and_a_table_of_its_steps_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run = Run(2, tmp_path)
        with run.profile:
            run.train(WARM_UP + 1)
            run.validate()
            run.train(4)
    assert told(caplog).startswith("2 steps of 500.000 ms")
    for what in ("conv1 forward", "fc8 own backward", "loss", "exchange that nothing hides", "exchange, all copies"):
        assert what in told(caplog)
    assert "softmax" not in told(caplog)
    assert "waiting for data             host              125.000   25.0 %" in told(caplog)
    names = {event.get("name") for event in json.loads((tmp_path / TRACE).read_text())["traceEvents"]}
    assert {"conv3 forward (compute 1)", "fc6 backward (compute 0)", "conv3 activation to 0 wait (compute 0)"} <= names
    assert any(str(name).startswith("fc7 activation to 0 copy") for name in names)
    assert sum(1 for _, name, _, _ in run.streams.spans if name == "loss") == 2


def test_a_run_that_is_over_sooner_has_the_profile_of_its_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run = Run(20, tmp_path)
        with run.profile:
            run.train(WARM_UP + 3)
    assert told(caplog).startswith("3 steps of 500.000 ms")
    assert (tmp_path / TRACE).exists()


def test_a_run_too_short_to_be_profiled_is_told_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(20, tmp_path)
    with run.profile:
        run.train(2)
    assert told(caplog) == "no step was profiled: that begins after 10 steps"


def test_a_table_adds_waits_up_by_stream_and_gives_shares_of_the_steps() -> None:
    seconds = {
        ("compute 0", "conv1 forward"): 0.2,
        ("compute 0", "conv3 activation to 0 wait"): 0.1,
        ("compute 0", "fc6 activation to 0 wait"): 0.3,
        ("0 to 1 out", "conv3 activation to 1 copy"): 0.05,
    }
    rows = [line.split() for line in table(seconds, steps=10, step_s=1.0, waited_s=0.0).splitlines()[1:]]
    assert rows[0] == ["conv1", "forward", "compute", "0", "20.000", "20.0", "%"]
    assert rows[1] == ["exchange", "that", "nothing", "hides", "compute", "0", "40.000", "40.0", "%"]
    assert rows[2] == ["exchange,", "all", "copies", "5.000", "5.0", "%"]


def test_streams_that_are_not_watching_note_nothing() -> None:
    streams = WatchedStreams()
    with streams.span(streams.stream(CPU, "any"), "work"):
        pass
    assert streams.seconds() == {}
