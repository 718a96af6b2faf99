"""The service's listening socket: over TCP, or a Unix socket that only its own user can open.

Raises UsageError, naming --bind, if an endpoint is taken or malformed.
"""

import contextlib
import fcntl
import os
import socket as system
import stat
from collections.abc import Iterator
from pathlib import Path

import zmq

from common.errors import UsageError
from common.wire import sockets
from common.wire.keys import ServerKeys
from common.wire.sockets import Context, End

_IPC = "ipc://"


def listen(context: Context, bind: str, keys: ServerKeys | None) -> tuple[End, str]:
    """Bind the ROUTER; returns it and its actual endpoint."""
    with _for_the_owner_alone(bind):
        try:
            end = sockets.router(context, bind, keys)
        except zmq.ZMQError as error:
            raise UsageError(f"cannot listen on {bind}: {zmq.strerror(error.errno or 0)} (--bind)") from None
    endpoint = end.socket.getsockopt_string(zmq.LAST_ENDPOINT)
    port = bind.rpartition(":")[2]
    if port.isdecimal() and port != "0" and not endpoint.endswith(f":{port}"):
        end.close()
        raise UsageError(f"cannot listen on {bind}: there is no port {port} (--bind)")  # ZeroMQ takes it modulo 2**16
    return end, endpoint


@contextlib.contextmanager
def _for_the_owner_alone(bind: str) -> Iterator[None]:
    """Bind a socket file for the owner alone, in place of nothing but one that nobody listens on.

    ZeroMQ removes whatever lies at the path. Loaders that start in one folder at once take turns.
    """
    path = Path(bind.removeprefix(_IPC))
    if not bind.startswith(_IPC) or bind == f"{_IPC}*" or bind.startswith(f"{_IPC}@"):
        yield
        return
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot listen on {bind}: {path.parent}: {error.strerror} (--bind)") from None
    before = os.umask(0o177)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        _refuse_living(bind, path)
        yield
    finally:
        os.umask(before)
        os.close(folder)


def _refuse_living(bind: str, path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(f"cannot listen on {bind}: {path} is a file of another kind (--bind)")
        with system.socket(system.AF_UNIX, system.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(os.fspath(path))
            except ConnectionRefusedError:
                return  # nobody listens: whoever did was killed
            except (BlockingIOError, PermissionError):
                pass
        raise UsageError(f"cannot listen on {bind}: Address already in use (--bind)")
