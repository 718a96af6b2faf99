"""A rank without torch, as a script: does what its arguments name, if they are for it.

RANK:ACT or RANK:ACT:LIFE, LIFE counting from 0. Appends a line "rank life threads port pid" to the file that is its
first argument, once it is prepared for signals.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common.errors import AlexNetError, LoaderTimeout, RankLost, UsageError
from trainer.ranks.place import LAUNCHER, die_with_launcher, is_told_by_launcher, rank

ERRORS: dict[str, AlexNetError] = {
    "misused": UsageError("--this is wrong"),
    "starved": LoaderTimeout("no loader answers"),
    "deserted": RankLost("hears nothing"),
}
SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1


def main(path: str, *acts: str) -> None:
    die_with_launcher()
    life = os.environ["TORCHELASTIC_RESTART_COUNT"]
    whose = [each.split(":") for each in acts]
    own = [act for who, act, *lives in whose if int(who) == rank() and life in (lives or [life])]
    if "hangs" in own:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for number in SIGNALS if "deaf" not in own else ():
        signal.signal(number, lambda number, _: stop(path, number))
    with Path(path).open("a") as told:
        settings = (os.environ[name] for name in ("OMP_NUM_THREADS", "MASTER_PORT"))
        print(rank(), life, *settings, os.getpid(), file=told)
    for act in own:
        do(act, lambda: begun(path, life))
    time.sleep(0.3)  # in which an agent that ended ranks too early would be seen


def stop(path: str, number: int) -> None:
    """Save for a while."""
    time.sleep(1.0 if rank() else 0.2)
    with Path(path).open("a") as told:
        print(rank(), "saved", number, file=told)
    sys.exit(128 + number)


def begun(path: str, life: str) -> list[int]:
    """The process ids of this life's ranks, once all have told them."""
    lines = [line.split() for line in Path(path).read_text().splitlines()]
    pids = [int(line[4]) for line in lines if line[1] == life]
    return pids if len(pids) == int(os.environ["WORLD_SIZE"]) else []


def do(act: str, ranks: Callable[[], list[int]]) -> None:
    if act in ("wait", "deaf", "hangs"):
        signal.pause()
    elif act.isdigit():
        os.kill(int(os.environ[LAUNCHER]), int(act))
        signal.pause()
    elif act in ERRORS:
        sys.exit(ERRORS[act].exit_code if is_told_by_launcher(ERRORS[act], str(ERRORS[act])) else 99)
    elif act == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "late":
        wait_until(ranks)
    elif act == "last":
        wait_until(lambda: sum(map(runs, ranks())) == 1)
    else:
        raise AssertionError(act)


def wait_until(holds: Callable[[], object]) -> None:
    while not holds():
        time.sleep(0.01)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    main(*sys.argv[1:])
