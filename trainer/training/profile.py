"""Step profile: Chrome's trace (ui.perfetto.dev), and a table by the devices' own clocks.

The exposed exchange is the time in which a half only waited for the other.
"""

import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.device.streams import DeviceStream, Mark, Streams

log = logging.getLogger(__name__)

WARM_UP = 10  # steps before the first that is profiled
TRACE = "trace.json"


class WatchedStreams(Streams):
    """Streams that time each span while `watching`."""

    def __init__(self) -> None:
        self.watching = False
        self.spans: list[tuple[DeviceStream, str, Mark, Mark]] = []

    @contextlib.contextmanager
    def span(self, stream: DeviceStream, name: str) -> Iterator[None]:
        if not self.watching:
            yield
            return
        with torch.profiler.record_function(f"{name} ({stream.name})"):
            start = self.mark(stream)
            yield
            self.spans.append((stream, name, start, self.mark(stream)))

    def seconds(self) -> dict[tuple[str, str], float]:
        total: dict[tuple[str, str], float] = defaultdict(float)
        for stream, name, start, end in self.spans:
            total[stream.name, name] += self.seconds_between(start, end)
        return total


@dataclass(frozen=True, slots=True)
class _Row:
    what: str
    where: str
    seconds: float


class Profile:
    """Profiles `steps` steps after a warm-up, then writes RUN/trace.json and logs the table. Use in a `with` block."""

    def __init__(self, steps: int, streams: WatchedStreams, run_folder: Path) -> None:
        self._wanted, self._streams, self._path = steps, streams, run_folder / TRACE
        self._until_start, self._done = WARM_UP, 0
        self._profiler: torch.profiler.profile | None = None
        self._step_s = self._waited_s = 0.0

    def before_step(self) -> None:
        """Begin to watch: validation between two steps is not profiled."""
        if self._until_start == 0 and self._done == 0:
            self._start()
        self._streams.watching = self._profiler is not None

    def after_step(self, step_s: float, waited_s: float) -> None:
        self._streams.watching = False
        self._until_start = max(0, self._until_start - 1)
        if self._profiler is not None:
            self._step_s, self._waited_s = self._step_s + step_s, self._waited_s + waited_s
            self._done += 1
            if self._done == self._wanted:
                self._finish(self._profiler)

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        if self._profiler is not None and self._done:
            self._finish(self._profiler)
        elif not self._done:
            log.warning("no step was profiled: that begins after %d steps", WARM_UP)

    def _start(self) -> None:
        kinds = torch.profiler.ProfilerActivity
        activities = [kinds.CPU, kinds.CUDA] if torch.cuda.is_available() else [kinds.CPU]
        self._profiler = torch.profiler.profile(activities=activities, acc_events=True)  # which warns without
        self._profiler.start()

    def _finish(self, profiler: torch.profiler.profile) -> None:
        self._profiler = None
        seconds = self._streams.seconds()
        profiler.stop()
        profiler.export_chrome_trace(str(self._path))
        for line in table(seconds, self._done, self._step_s, self._waited_s).splitlines():
            log.info("%s", line)
        log.info("the trace is in %s", self._path)


def table(seconds: dict[tuple[str, str], float], steps: int, step_s: float, waited_s: float) -> str:
    rows = [_Row(name, where, value) for (where, name), value in seconds.items() if not _is_exchange(name)]
    for where in dict.fromkeys(where for where, name in seconds if name.endswith(" wait")):
        of_stream = [value for (other, name), value in seconds.items() if other == where and name.endswith(" wait")]
        rows.append(_Row("exchange that nothing hides", where, sum(of_stream)))
    copies = sum(value for (_, name), value in seconds.items() if name.endswith(" copy"))
    rows += [_Row("exchange, all copies", "", copies), _Row("waiting for data", "host", waited_s)]
    lines = [f"{steps} steps of {1000 * step_s / steps:.3f} ms; ms of each, and their share:"]
    for row in rows:
        share = 100 * row.seconds / step_s
        lines.append(f"  {row.what:28s} {row.where:16s} {1000 * row.seconds / steps:8.3f} {share:6.1f} %")
    return "\n".join(lines)


def _is_exchange(name: str) -> bool:
    return name.endswith((" wait", " copy"))
