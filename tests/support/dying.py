"""`alexnet-trainer`, killed at a chosen moment of a save.

    python -m tests.support.dying MOMENT TIMES OPTIONS...

The real command, killed when the moment comes for the TIMES-th time, as `sys.addaudithook` tells; a thread saves, so
training is anywhere then.

    write   while a checkpoint is written: by the kernel, at a byte beyond a limit set then
    sync    before the written file is synced
    name    before the partial file is renamed
    prune   before an old checkpoint is removed
    link    before the best checkpoint is linked
    best    before the link replaces the previous best
"""

import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

from trainer.checkpoints.checkpoint import BEST
from trainer.checkpoints.files import PARTIAL

DEATHS = (-signal.SIGKILL, -signal.SIGXFSZ)


def _ends(path: Any, *endings: str) -> bool:
    return isinstance(path, str | os.PathLike) and os.fspath(path).endswith(endings)


def _is_best(path: Any) -> bool:
    return _ends(path, BEST, BEST + PARTIAL)


def _is_checkpoint(path: Any) -> bool:
    return _ends(path, ".safetensors") and not _is_best(path)


def _is_checkpoint_partial(path: Any) -> bool:
    return _ends(path, PARTIAL) and not _is_best(path)


MOMENTS: dict[str, Callable[[str, Any], bool]] = {
    "write": lambda event, args: event == "open" and args[1] in ("w", "wb") and _ends(args[0], PARTIAL),
    "sync": lambda event, args: event == "open" and args[1] is None and _is_checkpoint_partial(args[0]),
    "name": lambda event, args: event == "os.rename" and _is_checkpoint(args[1]),
    "prune": lambda event, args: event == "os.remove" and _is_checkpoint(args[0]),
    "link": lambda event, args: event == "os.link" and _is_best(args[1]),
    "best": lambda event, args: event == "os.rename" and _is_best(args[1]),
}


def die_in(moment: str, times: int) -> None:
    """Let the process live until `moment` has come that often."""
    left = times
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # only the main thread may

    def listen(event: str, args: Any) -> None:
        nonlocal left
        if MOMENTS[moment](event, args):
            left -= 1
            if left == 0:
                _die(moment)

    sys.addaudithook(listen)


def _die(moment: str) -> None:
    if moment != "write":
        os.kill(os.getpid(), signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = random.randrange(100_000, 700_000)  # more than metrics.jsonl, which the main thread writes
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


if __name__ == "__main__":
    from trainer.cli.train_command import main

    moment, times, *options = sys.argv[1:]
    die_in(moment, int(times))
    main(options)
