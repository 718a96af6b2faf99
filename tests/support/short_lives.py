"""A service that only ends, each life in its own way, under the real supervisor.

    python -m tests.support.short_lives FILE PAUSE_S WITHIN_S WAY... [/ WAY...]

FILE gets a line for each life; the last WAY is that of all further lives, and one that begins with "serves," serves
first. WAYs after a / are of a second service, with FILE.1. PAUSE_S and WITHIN_S replace the supervisor's.
"""

import os
import signal
import sys
from pathlib import Path

from common.cli import log
from common.errors import LoaderError, UsageError
from loader.service import life, supervisor


def main() -> None:
    file, ways = sys.argv[1], " ".join(sys.argv[4:]).split(" / ")
    supervisor._FIRST_PAUSE_S = supervisor._LONGEST_PAUSE_S = float(sys.argv[2])
    supervisor.WITHIN_S = float(sys.argv[3])
    services = [service(Path(f"{file}.{at}" if at else file), 4711 + at, each.split()) for at, each in enumerate(ways)]
    log.setup("lives")
    with log.errors_as_exit_codes("lives"):
        supervisor.supervise("lives", services, ["tcp://127.0.0.1:*"] * len(services), hangup=False)


def service(file: Path, port: int, ways: list[str]) -> life.Service:
    def serve(bind: str, announce: life.Announce) -> None:
        with file.open("a") as lives:
            lives.write(f"{bind}\n")
        lived = len(file.read_text().splitlines())
        *serves, way = ways[min(lived, len(ways)) - 1].split(",")
        if serves:
            announce(f"tcp://127.0.0.1:{port}")
        end(way)

    return serve


def end(way: str) -> None:
    if way == "aborts":
        os.abort()
    elif way == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif way == "waits":
        signal.pause()
    elif way == "raises":
        raise RuntimeError("unexpected")
    elif way == "refuses":
        raise UsageError("a wrong option")
    elif way == "fails":
        raise LoaderError("no worker can be started")
    else:
        assert way == "stops"


if __name__ == "__main__":
    main()
