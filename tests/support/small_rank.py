"""A rank without torch, as a script: does what its arguments name, if they are for it.

RANK:ACT or RANK:ACT:LIFE, LIFE counting from 0. Appends a line "rank life" to the file that is its first argument.
"""

import os
import signal
import sys
import time
from pathlib import Path

from common.errors import AlexNetError, LoaderTimeout, RankLost, UsageError
from trainer.ranks.place import LAUNCHER, die_with_launcher, is_told_by_launcher, rank

ERRORS: dict[str, AlexNetError] = {
    "misused": UsageError("--this is wrong"),
    "starved": LoaderTimeout("no loader answers"),
    "deserted": RankLost("hears nothing"),
}


def main(path: str, *acts: str) -> None:
    die_with_launcher()
    life = os.environ["TORCHELASTIC_RESTART_COUNT"]
    with Path(path).open("a") as told:
        print(rank(), life, *(os.environ[name] for name in ("OMP_NUM_THREADS", "MASTER_PORT")), file=told)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda number, _: stop(path, number))
    for who, act, *lives in (each.split(":") for each in acts):
        if int(who) == rank() and life in (lives or [life]):
            do(act)
    time.sleep(0.3)  # in which an agent that ended ranks too early would be seen


def stop(path: str, number: int) -> None:
    """Save for a while."""
    time.sleep(1.0 if rank() else 0.2)
    with Path(path).open("a") as told:
        print(rank(), "saved", number, file=told)
    sys.exit(128 + number)


def do(act: str) -> None:
    if act == "wait":
        signal.pause()
    elif act.isdigit():
        os.kill(int(os.environ[LAUNCHER]), int(act))
        signal.pause()
    elif act in ERRORS:
        sys.exit(ERRORS[act].exit_code if is_told_by_launcher(ERRORS[act], str(ERRORS[act])) else 99)
    elif act == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pause()
    elif act == "hangs":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif act == "late":
        time.sleep(0.5)
    else:
        raise AssertionError(act)


if __name__ == "__main__":
    main(*sys.argv[1:])
