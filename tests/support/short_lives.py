"""A service that only ends, each life in its own way, under the real supervisor.

    python -m tests.support.short_lives FILE PAUSE_S WITHIN_S WAY...

FILE gets a line for each life; the last WAY is that of all further lives, and one that begins with "serves," serves
first. PAUSE_S and WITHIN_S replace the supervisor's.
"""

import os
import sys
from pathlib import Path

from common.cli import log
from common.errors import LoaderError, UsageError
from loader.service import life, supervisor


def main() -> None:
    file, ways = Path(sys.argv[1]), sys.argv[4:]
    supervisor._FIRST_PAUSE_S = supervisor._LONGEST_PAUSE_S = float(sys.argv[2])
    supervisor.WITHIN_S = float(sys.argv[3])

    def serve(bind: str, announce: life.Announce) -> None:
        with file.open("a") as lives:
            lives.write(f"{bind}\n")
        lived = len(file.read_text().splitlines())
        *serves, way = ways[min(lived, len(ways)) - 1].split(",")
        if serves:
            announce("tcp://127.0.0.1:4711")
        end(way)

    log.setup("lives")
    with log.errors_as_exit_codes("lives"):
        supervisor.supervise("lives", [serve], ["tcp://127.0.0.1:*"], hangup=False)


def end(way: str) -> None:
    if way == "aborts":
        os.abort()
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
