"""The keys by which a service and its clients know each other (CurveZMQ), as files in a folder.

    server.key_secret    the service's secret: for loader hosts alone
    clients/NAME.key     who may connect, a public key each: for loader hosts
    server.key           the service's public key: a client talks to no other service
    client.key_secret    a client's secret: for its own host alone

The files are ZeroMQ certificates, as czmq and pyzmq write them. Both sides may use one folder, or each a folder with
its own two.
"""

import contextlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zmq
import zmq.auth
from zmq.utils import z85

from ..errors import UsageError

FIRST_CLIENT = "client"
_ALLOWED = "clients"
_LARGEST = 1 << 16  # bytes of a certificate


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """What a service needs: its secret, in Z85, and the folder of public keys that it lets in."""

    secret: bytes
    allowed: Path

    @classmethod
    def read(cls, folder: Path) -> "ServerKeys":
        """UsageError if a file is missing, damaged or open to others."""
        need_curve()
        refuse_writable(folder)
        keys = cls(_secret(folder / "server.key_secret"), folder / _ALLOWED)
        if not keys.allowed.is_dir():
            raise UsageError(f"{keys.allowed}, the public keys of those who may connect, is no folder (--keys)")
        refuse_writable(keys.allowed)
        return keys


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a client needs, in Z85: its secret, and the public key of the services it trusts."""

    secret: bytes
    server: bytes

    @classmethod
    def read(cls, folder: Path) -> "ClientKeys":
        """UsageError if a file is missing, damaged or open to others."""
        need_curve()
        refuse_writable(folder)
        return cls(_secret(folder / "client.key_secret"), public_key(folder / "server.key"))


def make(folder: Path, client: str = FIRST_CLIENT) -> list[tuple[Path, str]]:
    """Make keys for a service, where `folder` has none yet, and for one client; gives (file, what it is for).

    The first client's secret lies in `folder` itself, another's in a folder of its name, with all that it needs.
    Files are for the owner alone. UsageError where there are such keys already: nothing is ever overwritten.
    """
    need_curve()
    home, allowed = folder if client == FIRST_CLIENT else folder / client, folder / _ALLOWED
    if client == _ALLOWED or (allowed / f"{client}.key").exists() or (home / "client.key_secret").exists():
        raise UsageError(f"{folder} has keys of {client!r} already; --client NAME makes those of another client")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "server.key_secret").exists():
        raise UsageError(f"{folder} holds other things; keys get a folder of their own")
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
        made = [(folder / "server.key_secret", "the service's secret: for loader hosts alone")]
    zmq.auth.create_certificates(home, "client")
    (home / "client.key").rename(allowed / f"{client}.key")
    if home != folder:
        (home / "server.key").write_bytes((folder / "server.key").read_bytes())
    return [
        *made,
        (allowed / f"{client}.key", "who may connect, a public key each: for loader hosts"),
        (home / "server.key", "the service's public key: for the client's host"),
        (home / "client.key_secret", "the client's secret: for the client's host alone"),
    ]


def public_key(path: Path) -> bytes:
    """The public key in a file, Z85. UsageError where there is none."""
    return _read(path)[0]


def need_curve() -> None:
    if not zmq.has("curve"):
        raise UsageError("the installed pyzmq was built without CURVE, so there are no keys; pip's wheels have it")


def refuse_writable(path: Path) -> None:
    """Raises UsageError if another user than root could change what is at `path`: then he decides who is who."""
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
        raise UsageError(f"{path} is a secret that others may read; chmod 600 {path} (--keys)")
    if secret is None:
        raise UsageError(f"{path} holds no secret key (--keys)")
    return secret


def _read(path: Path) -> tuple[bytes, bytes | None]:
    refuse_writable(path)
    try:
        with _regular(path) as file:
            public, secret = zmq.auth.load_certificate(file)
        for key in (public, *([secret] if secret else [])):
            if len(z85.decode(key)) != 32:
                raise ValueError(key)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or 'not found'}; alexnet-loader keys makes it (--keys)") from None
    except (ValueError, KeyError, struct.error):
        raise UsageError(f"{path} is no ZeroMQ certificate (--keys)") from None
    return public, secret


@contextlib.contextmanager
def _regular(path: Path) -> Iterator[str]:
    """A name for the file at `path`, opened: a FIFO would be waited for, a device read for ever. Raises ValueError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST:
            raise ValueError(path)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


@contextlib.contextmanager
def _for_the_owner_alone() -> Iterator[None]:
    """Files made within have mode 0600, folders 0700."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
