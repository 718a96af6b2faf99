"""Messages that are nearly right, by the thousand: to the decoder, to a service, to a client.

`tests/bench/fuzz_wire.py` sends a million."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from common.client.client import LoaderClient
from common.errors import LoaderError, WireError
from common.wire import messages
from tests.support.processes import LoaderProcess, alive
from tests.support.reader import SPEC, fingerprint
from tests.support.wire_fuzz import Attacker, Fuzzer, LyingProxy, seeds

SMALL = ["--stream-mib", "16", "--memory-mib", "300"]


@pytest.fixture
def small(packed: Path, tmp_path: Path) -> Iterator[LoaderProcess]:
    with LoaderProcess(packed, tmp_path, 2, "tcp://127.0.0.1:*", *SMALL) as service:
        yield service


def test_the_seeds_are_of_every_kind_and_right() -> None:
    kinds = {messages.decode(header, len(payloads)).kind for header, *payloads in seeds()}
    assert kinds == {of.kind for of in messages.Message.__subclasses__()}


@given(st.integers(0, 2**32))
def test_a_changed_message_is_a_message_or_a_wire_error(seed: int) -> None:
    fuzzer = Fuzzer(seed, seeds())
    for _ in range(20):
        header, *payloads = fuzzer.message() or [b""]
        with contextlib.suppress(WireError):
            message = messages.decode(header, len(payloads))
            assert messages.decode(messages.encode(message), len(payloads)) == message


def test_the_fuzz_is_the_same_each_time_and_reaches_every_outcome() -> None:
    outcomes = set()
    for frames in [Fuzzer(seed, seeds()).message() for seed in range(2000)]:
        try:
            outcomes.add(messages.decode(frames[0], len(frames) - 1).kind)
        except WireError as error:
            outcomes.add(str(error).split()[-1])
    assert len(outcomes) > 15
    assert Fuzzer(7, seeds()).message() == Fuzzer(7, seeds()).message()


def test_a_service_goes_through_thousands_of_changed_messages_and_serves_on(small: LoaderProcess) -> None:
    with LoaderClient(small.endpoint, timeout_s=20) as loader:
        stream = loader.stream(SPEC, 16)
        undisturbed = fingerprint(stream.batches([0]))
        for round_number in range(10):
            with (
                zmq.Context() as context,
                contextlib.closing(Attacker(context, small.endpoint, round_number)) as attacker,
            ):
                for _ in range(10):
                    attacker.renew()
                    attacker.send(attacker.burst(100))
            assert fingerprint(stream.batches([0])) == undisturbed
        workers = small.workers
        assert len(workers) == 2
        assert all(map(alive, workers))
        assert "Traceback" not in small.log.read_text()


@pytest.mark.parametrize("seed", range(3))
def test_a_client_of_a_lying_service_gets_what_is_right_or_an_error(
    service: LoaderProcess, undisturbed: list[str], seed: int
) -> None:
    with LyingProxy(service.endpoint, seed) as proxy:
        got = list[str]()
        with contextlib.suppress(LoaderError):
            with LoaderClient(proxy.endpoint, timeout_s=3, transport="frames") as loader:
                stream = loader.stream(SPEC, 16, digests="verify")
                assert len(stream.names([0, 7, 149])) == 3
                for batch in stream.batches([0]):
                    got.extend(fingerprint([batch]))
        assert got == undisturbed[: len(got)]
        assert proxy.told > 0
