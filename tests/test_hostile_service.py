"""A client against services that break the protocol, over real sockets: an error that names it, or the message ignored;
never wrong pixels, never a wait beyond its limit."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq

from common import wire
from common.client import LoaderClient
from common.errors import LoaderRefused
from common.spec import StreamSpec

SPEC = StreamSpec(split="train", seed=3, crop=64)


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The endpoint of a service that gives this answer to whatever comes."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.bind("tcp://127.0.0.1:*")
        stop = threading.Event()

        def answer_all() -> None:
            while not stop.is_set():
                if router.poll(20):
                    router.send_multipart([router.recv_multipart()[0], answer])

        thread = threading.Thread(target=answer_all)
        thread.start()
        try:
            yield router.getsockopt_string(zmq.LAST_ENDPOINT)
        finally:
            stop.set()
            thread.join()


def test_a_service_of_another_version_is_refused_naming_both() -> None:
    with answering(b"\x92\x63\xa4PONG") as endpoint, LoaderClient(endpoint) as loader:
        both = f"{endpoint} refuses: the peer speaks protocol version 99, this program version {wire.VERSION}"
        with pytest.raises(LoaderRefused, match=both):
            loader.stream(SPEC, 16)


def test_a_client_of_another_version_is_told_both() -> None:
    told = wire.Fault(
        -1, b"", wire.VERSION_MISMATCH, "the peer speaks version 1, this program version 9", wire.NO_RECORD
    )
    with answering(wire.encode(told)) as endpoint, LoaderClient(endpoint) as loader:
        with pytest.raises(
            LoaderRefused, match=f"{endpoint} refuses: the peer speaks version 1, this program version 9"
        ):
            loader.stream(SPEC, 16)
