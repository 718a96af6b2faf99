"""A client that speaks ZMTP 3.0 (rfc.zeromq.org/spec/23) by hand, to send what ZeroMQ's own sockets never would."""

import socket

_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_MORE, _LONG, _COMMAND = 1, 2, 4


class RawClient:
    """A connection to a ROUTER, as a DEALER after the handshake if `greet`."""

    def __init__(self, endpoint: str, greet: bool = True) -> None:
        host, port = endpoint.removeprefix("tcp://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        if greet:
            self.socket.sendall(_GREETING)
            self._read(len(_GREETING))
            ready = b"\x05READY" + b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
            self.socket.sendall(bytes([_COMMAND, len(ready)]) + ready)
            self._read(self._read(2)[1])

    def send(self, frame: bytes, more: bool = False) -> None:
        self.socket.sendall(frame_of(frame, more))

    def ended(self) -> bool:
        """Wait until the other side has ended the connection."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            pass
        return True

    def _read(self, size: int) -> bytes:
        read = b""
        while len(read) < size:
            read += (part := self.socket.recv(size - len(read)))
            assert part, "the other side ended the connection"
        return read

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def frame_of(body: bytes, more: bool = False, claimed: int | None = None) -> bytes:
    """A frame on the wire, which may claim to be of another length."""
    size = len(body) if claimed is None else claimed
    return bytes([_LONG | (_MORE if more else 0)]) + size.to_bytes(8, "big") + body
