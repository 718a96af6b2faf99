"""Child processes of the service, exec'ed, not forked, each at the other end of a link."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

from common.cli import console
from common.parent import die_with_parent
from loader.workers import link


def started(module: str, *arguments: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Run `module` with its link's descriptor and `arguments`; returns our end too. Raises OSError."""
    ours, theirs = link.pair()
    # -P: nothing of the folder that the loader is started in is imported
    program = [sys.executable, "-P", "-m", module, str(theirs.fileno()), *arguments]
    with theirs, contextlib.ExitStack() as stack:
        stack.enter_context(ours)
        process = subprocess.Popen(
            program,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # a pool of threads nobody needs
            stdin=subprocess.DEVNULL,
        )
        stack.pop_all()
    return process, ours


def joined() -> socket.socket:
    """In the child: set this process up, and return its end of the link."""
    console.take_over()
    fd = int(sys.argv[1])
    die_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service handles Ctrl-C, and closes the link
    service = socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    return service


def is_stopped(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG) is not None
    except ChildProcessError:  # it has ended, and its link tells
        return False


def ending(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with exit code {status}"
