"""Damage on the way to the client is noticed by the digests."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from common.client.client import LoaderClient
from common.errors import LoaderFault
from common.spec import StreamSpec
from tests.support.processes import LoaderProcess

SPEC = StreamSpec(seed=3, crop=64)
FIRST_FLIP, BETWEEN_FLIPS = 1_000_000, 200_000  # bytes sent by the service: behind its WELCOME, and once a batch


@contextmanager
def flipping_relay(endpoint: str, flips: int) -> Iterator[str]:
    """A way to the service on which so many bits of what it sends change."""
    host, port = endpoint.removeprefix("tcp://").split(":")
    flip_at = [FIRST_FLIP + k * BETWEEN_FLIPS for k in range(flips)]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=relay, args=(listening, (host, int(port)), flip_at))
        thread.start()
        yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(timeout=60)
    assert not thread.is_alive()


def relay(listening: socket.socket, service: tuple[str, int], flip_at: list[int]) -> None:
    """One connection, until either side ends it."""
    client, _ = listening.accept()
    with client, socket.create_connection(service) as server:
        back = threading.Thread(target=pump, args=(client, server, []))
        back.start()
        pump(server, client, flip_at)
        back.join(timeout=60)


def pump(source: socket.socket, target: socket.socket, flip_at: list[int]) -> None:
    seen = 0
    try:
        while data := bytearray(source.recv(1 << 16)):
            for at in flip_at:
                if seen <= at < seen + len(data):
                    data[at - seen] ^= 0x10
            seen += len(data)
            target.sendall(data)
    except OSError:
        pass
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


def images(endpoint: str, digests: str) -> list[bytes]:
    with LoaderClient(endpoint, transport="frames") as loader:
        return [batch.images.tobytes() for batch in loader.stream(SPEC, 16, digests=digests).batches([0])]  # type: ignore[arg-type]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.client.patience._EXPIRY_S", (0.05, 0.3))


@pytest.mark.usefixtures("soon")
def test_a_batch_that_was_damaged_on_its_way_is_asked_for_again(
    service: LoaderProcess, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = images(service.endpoint, "off")
    with flipping_relay(service.endpoint, flips=1) as endpoint:
        assert images(endpoint, "verify") == undisturbed
    assert "came damaged" in caplog.text
    with flipping_relay(service.endpoint, flips=1) as endpoint:
        flipped = images(endpoint, "on")  # so it was a pixel that changed
    different = [
        np.count_nonzero(np.frombuffer(a, "u1") != np.frombuffer(b, "u1"))
        for a, b in zip(flipped, undisturbed, strict=True)
    ]
    assert sorted(different) == [0] * 9 + [1]


@pytest.mark.usefixtures("soon")
def test_what_always_comes_damaged_is_an_error_in_its_turn(service: LoaderProcess) -> None:
    with flipping_relay(service.endpoint, flips=100) as endpoint:
        with pytest.raises(LoaderFault, match=r"positions 0\.\. came damaged 3 times|positions 16\.\. came damaged"):
            images(endpoint, "verify")
