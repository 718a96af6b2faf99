"""The process that answers scrapes: GET /metrics, one request a connection.

    python -m loader.monitoring.responder SOCKET FIGURES...    descriptors: a listening socket, each service's figures

It yields the cores to everything else, reads at most LONGEST_REQUEST of a request, and cuts whoever takes longer than
DEADLINE_S, or is the oldest of more than MOST_OPEN. An attack costs the figures, never the service.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys

from common.cli import console
from common.parent import die_with_parent
from loader.monitoring.exposition import Exposition
from loader.monitoring.figures import Figures

LONGEST_REQUEST = 1 << 13  # bytes, with all headers
DEADLINE_S = 5.0  # from the connection to the last byte of the answer
MOST_OPEN = 64  # connections
_LEAST_NICE = 19  # 1.5 % of a core while others want it
_TEXT = "text/plain; charset=utf-8"


class Responder:
    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition
        self._open: dict[asyncio.StreamWriter, None] = {}  # oldest first

    async def serve(self, listener: socket.socket) -> None:
        server = await asyncio.start_server(self._answer, sock=listener, limit=LONGEST_REQUEST, backlog=MOST_OPEN)
        await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = None
        if len(self._open) > MOST_OPEN:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        try:
            with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                async with asyncio.timeout(DEADLINE_S):
                    writer.write(self._response(await _request(reader)))
                    writer.close()
                    await writer.wait_closed()
        finally:
            self._open.pop(writer, None)
            writer.transport.abort()

    def _response(self, request: bytes | None) -> bytes:
        if request is None:
            return _message("431 Request Header Fields Too Large", b"", _TEXT)
        first, *headers = request.decode("latin-1").split("\r\n")
        method, _, rest = first.partition(" ")
        target, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1."):
            return _message("400 Bad Request", b"", _TEXT)
        if method not in ("GET", "HEAD"):
            return _message("405 Method Not Allowed", b"", _TEXT)
        if target.partition("?")[0] != "/metrics":
            return _message("404 Not Found", b"the figures are at /metrics\n", _TEXT)
        accept = next((header[7:] for header in headers if header[:7].lower() == "accept:"), "")
        body, content_type = self._exposition.text(accept)
        return _message("200 OK", body, content_type, is_head=method == "HEAD")


async def _request(reader: asyncio.StreamReader) -> bytes | None:
    """The request up to its empty line; None if it is too long."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return None


def _message(status: str, body: bytes, content_type: str, *, is_head: bool = False) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if is_head else body)


def main() -> None:
    console.take_over()
    die_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the service ends it
    os.nice(_LEAST_NICE)
    listener, figures = socket.socket(fileno=int(sys.argv[1])), [Figures(int(fd)) for fd in sys.argv[2:]]
    asyncio.run(Responder(Exposition(figures)).serve(listener))


if __name__ == "__main__":
    main()
