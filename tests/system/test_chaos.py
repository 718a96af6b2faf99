"""The stream while everything goes wrong at random moments: real processes, kills, stops, restarts, a bad network.

The seed is fixed; `ALEXNET_CHAOS_SECONDS` makes it last longer, `ALEXNET_CHAOS_SEED` draws another schedule.
"""

import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from common.client.stream_sessions import Transport
from common.spec import StreamSpec
from tests.support.chaos import Action, Disturber, Mortal, Reading, client, read_epochs, undisturbed
from tests.support.processes import ANY_PORT
from tests.support.proxy import Faults, Proxy

SECONDS = float(os.environ.get("ALEXNET_CHAOS_SECONDS", "4"))
SEED = int(os.environ.get("ALEXNET_CHAOS_SEED", "1"))
SPEC = StreamSpec(split="train", seed=5, crop=200)
BATCH = 16
HALF_KEPT = ("--decoded-gib", "0.0174")  # of the images


@pytest.mark.parametrize("transport", ["auto", "frames"])
def test_whatever_happens_at_random_moments_the_stream_is_the_same(
    packed: Path, tmp_path: Path, transport: Transport
) -> None:
    with ExitStack() as stack:
        hosts = [
            stack.enter_context(Mortal(packed, tmp_path, 2, ANY_PORT, *HALF_KEPT, seed=SEED + n)) for n in range(2)
        ]
        proxies = [stack.enter_context(Proxy(host.endpoint, SEED + n, Faults())) for n, host in enumerate(hosts)]
        loader = stack.enter_context(client([proxy.endpoint for proxy in proxies], transport))
        stream = loader.stream(SPEC, BATCH)
        actions: dict[str, tuple[float, Action]] = {
            f"{what} of host {n}": (weight, action)
            for n, host in enumerate(hosts)
            for what, weight, action in (
                ("a worker killed", 3, host.kill_worker),
                ("a worker stopped", 3, host.stop_worker),
                ("the service killed", 1, host.kill_service),
                ("the whole loader killed and started again", 1, host.restart),
                ("the service stopped for a while", 1, partial(host.freeze, 1.5)),
            )
        }

        with Disturber(actions, (0.05, 0.6), SEED) as disturber:

            def enough(reading: Reading) -> bool:
                """However slow the machine."""
                faults = [proxy.forwarded[what] for proxy in proxies for what in ("lost", "repeated", "delayed")]
                return reading.seconds > SECONDS and all(faults) and sum(disturber.done.values()) > SECONDS / 2

            reading = read_epochs(stream, 0, enough)
    assert reading.digests == undisturbed(packed, tmp_path, SPEC, BATCH, len(reading.digests))
