"""CurveZMQ keys of services and clients, as ZeroMQ certificates in a folder.

server.key_secret    the service's secret key: for loader hosts only
clients/NAME.key     public key of a client that may connect: for loader hosts
server.key           the service's public key: a client trusts no other service
client.key_secret    a client's secret key: for its own host only
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zmq
import zmq.auth
from zmq.utils import z85

from ..errors import UsageError
from ..untrusted import open_regular

FIRST_CLIENT = "client"
_ALLOWED = "clients"
_LARGEST = 1 << 16  # bytes of a certificate


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """A service's secret key, in Z85, and the folder of public keys it admits."""

    secret: bytes
    allowed: Path

    @classmethod
    def read(cls, folder: Path) -> "ServerKeys":
        """Raises UsageError if a file is missing, damaged or accessible to others."""
        need_curve()
        refuse_writable(folder)
        keys = cls(_secret(folder / "server.key_secret"), folder / _ALLOWED)
        if not keys.allowed.is_dir():
            raise UsageError(f"{keys.allowed}, the public keys of clients that may connect, is not a folder (--keys)")
        refuse_writable(keys.allowed)
        return keys


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """A client's secret key and the public key of the services it trusts, in Z85."""

    secret: bytes
    server: bytes

    @classmethod
    def read(cls, folder: Path) -> "ClientKeys":
        """Raises as `ServerKeys.read` does."""
        need_curve()
        refuse_writable(folder)
        return cls(_secret(folder / "client.key_secret"), public_key(folder / "server.key"))


def make(folder: Path, client: str = FIRST_CLIENT) -> list[tuple[Path, str]]:
    """Make keys for one client, and for the service if it has none; returns (file, its purpose).

    The first client's secret lies in `folder`; any other client gets a folder of its name. Raises UsageError if the
    client has keys.
    """
    need_curve()
    home, allowed = folder if client == FIRST_CLIENT else folder / client, folder / _ALLOWED
    if client == _ALLOWED or (allowed / f"{client}.key").exists() or (home / "client.key_secret").exists():
        raise UsageError(f"{folder} has keys of {client!r} already; --client NAME makes those of another client")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "server.key_secret").exists():
        raise UsageError(f"{folder} is not empty; use a dedicated folder for keys")
    try:
        with _for_the_owner_alone():
            return _made(folder, home, allowed, client)
    except OSError as error:
        raise UsageError(f"no keys can be made: {error.filename}: {error.strerror}") from None


def _made(folder: Path, home: Path, allowed: Path, client: str) -> list[tuple[Path, str]]:
    made = []
    for path in (folder, home, allowed):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    if not (folder / "server.key_secret").exists():
        zmq.auth.create_certificates(folder, "server")
        made = [(folder / "server.key_secret", "the service's secret key: for loader hosts only")]
    zmq.auth.create_certificates(home, "client")
    (home / "client.key").rename(allowed / f"{client}.key")
    if home != folder:
        (home / "server.key").write_bytes((folder / "server.key").read_bytes())
    return [
        *made,
        (allowed / f"{client}.key", "the client's public key: for loader hosts"),
        (home / "server.key", "the service's public key: for the client's host"),
        (home / "client.key_secret", "the client's secret key: for the client's host only"),
    ]


def public_key(path: Path) -> bytes:
    """Raises UsageError if there is none."""
    return _read(path)[0]


def need_curve() -> None:
    if not zmq.has("curve"):
        raise UsageError("the installed pyzmq was built without CURVE; the wheels that pip installs have it")


def refuse_writable(path: Path) -> None:
    """Raise UsageError if another user than root could change `path`."""
    try:
        found = path.stat()
    except OSError as error:
        reason = "not found" if isinstance(error, FileNotFoundError) else error.strerror
        raise UsageError(f"{path}: {reason}; alexnet-loader keys makes it (--keys)") from None
    if found.st_uid not in (0, os.geteuid()):
        raise UsageError(f"{path} belongs to another user; chown {os.geteuid()} {path} (--keys)")
    if found.st_mode & 0o022:
        raise UsageError(f"{path} can be written by others; chmod go-w {path} (--keys)")


def _secret(path: Path) -> bytes:
    secret = _read(path)[1]
    if path.stat().st_mode & 0o077:
        raise UsageError(f"{path} is a secret key that others may read; chmod 600 {path} (--keys)")
    if secret is None:
        raise UsageError(f"{path} holds no secret key (--keys)")
    return secret


def _read(path: Path) -> tuple[bytes, bytes | None]:
    refuse_writable(path)
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > _LARGEST:
                raise ValueError(path)
            public, secret = zmq.auth.load_certificate(f"/proc/self/fd/{file.fileno()}")
        for key in (public, *([secret] if secret else [])):
            if len(z85.decode(key)) != 32:
                raise ValueError(key)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or 'not found'}; alexnet-loader keys makes it (--keys)") from None
    except (ValueError, KeyError, struct.error):
        raise UsageError(f"{path} is not a ZeroMQ certificate (--keys)") from None
    return public, secret


@contextlib.contextmanager
def _for_the_owner_alone() -> Iterator[None]:
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
