"""A rank and the launcher that started it: torchrun, or alexnet-trainer itself."""

import json
import os
import time
from typing import Any

from common.errors import RankLost, ToldByAnother
from common.parent import die_with_parent

LAUNCHER = "ALEXNET_LAUNCHER"  # process id of the alexnet-trainer that started this rank


def is_rank() -> bool:
    return "RANK" in os.environ


def rank() -> int:
    text = os.environ.get("RANK", "")
    return int(text) if text.isascii() and text.isdigit() else 0


def is_restarted() -> bool:
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def die_with_launcher() -> None:
    if is_rank():
        die_with_parent(int(os.environ.get(LAUNCHER, os.getppid())))


def is_told_by_launcher(error: BaseException, words: str) -> bool:
    """Report the error that ends this rank, if it is one; True if the launcher shows it.

    The file is torch's, so that torchrun, too, shows the first error.
    """
    if not is_rank() or not (path := os.environ.get("TORCHELASTIC_ERROR_FILE")):
        return False
    at_s = time.time()
    lost = isinstance(error, RankLost)
    message: dict[str, Any] = {"message": words, "at_s": at_s, "lost_another": lost}
    message["is_consequence"] = lost or isinstance(error, ToldByAnother)
    message["extraInfo"] = {"py_callstack": words, "timestamp": str(int(at_s))}  # which torchrun prints
    try:
        with open(path, "w") as file:
            json.dump({"message": message}, file)
    except OSError:  # a full disk
        return False
    return LAUNCHER in os.environ
