"""Arguments that the wire does not carry are refused at the call, not after a wait for an answer."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from common.client.client import LoaderClient
from common.client.stream import Stream
from common.errors import UsageError
from common.spec import StreamSpec
from tests.support.processes import LoaderProcess
from tests.support.reader import SPEC, fingerprint


@pytest.fixture(scope="module")
def loader(service: LoaderProcess) -> Iterator[LoaderClient]:
    with LoaderClient(service.endpoint) as loader:
        yield loader


@pytest.fixture(scope="module")
def stream(loader: LoaderClient) -> Stream:
    return loader.stream(SPEC, 16)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"epochs": [-1]}, "an epoch is -1; it is a whole number from 0 to 2147483647"),
        ({"epochs": [0.0]}, "an epoch is 0.0; "),
        ({"epochs": [0, True]}, "an epoch is True; "),
        ({"epochs": [2**31]}, "an epoch is 2147483648; "),
        ({"epochs": range(2**31 + 1)}, "an epoch is 2147483648; "),
        ({"epochs": iter([-1])}, "an epoch is -1; "),
        ({"epochs": np.array([0.0])}, "an epoch is .*0.0.*; "),
        ({"epochs": 3}, "epochs is 3; it is several epochs, as "),
        ({"epochs": "01"}, "an epoch is '0'; "),
        ({"first": -10}, "first is -10; it is a whole number from 0 to 150"),
        ({"first": 16.0}, "first is 16.0; "),
        ({"first": 151}, "first is 151; "),
        ({"end": -1}, "end is -1; "),
        ({"end": "9"}, "end is '9'; "),
        ({"first": 32, "end": 16}, "end is 16, which lies before first, 32"),
        ({"lend": 1}, "lend is 1; it is True or False"),
        ({"share": 2}, r"share is 2; it is \(rank, ranks\)"),
        ({"share": (2, 2)}, "rank is 2; it is a whole number from 0 to 1"),
        ({"share": (0, 0)}, "ranks is 0; "),
        ({"share": (0, 4), "end": 66}, "an epoch's last batch has 2 images for 4 ranks: end the epochs before it"),
        ({"share": (0, 4), "end": 66, "first": 2}, "an epoch's last batch has 2 images for 4 ranks"),
    ],
)
def test_epochs_and_positions_that_do_not_exist_are_refused_at_once(
    stream: Stream, asked: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        next(stream.batches(**{"epochs": [0], **asked}))
    assert len(next(stream.batches([0]))) == 16


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"batch_size": 0}, "batch_size is 0; it is a whole number from 1 to 16384"),
        ({"batch_size": 16.0}, "batch_size is 16.0; "),
        ({"batch_size": None}, "batch_size is None; "),
        ({"digests": True}, "digests is True; it is 'off' or 'on' or 'verify'"),
        ({"spec": {"split": "train"}}, "spec is .*; it is a StreamSpec"),
    ],
)
def test_a_stream_that_no_service_could_open_is_refused_at_once(
    loader: LoaderClient, asked: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        loader.stream(**{"spec": SPEC, "batch_size": 16, **asked})


@pytest.mark.parametrize("wrong", [{"timeout_s": float("nan")}, {"timeout_s": "60"}, {"transport": "tcp"}])
def test_a_client_that_could_not_wait_or_read_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} is "):
        LoaderClient("tcp://127.0.0.1:9", **wrong)
    with pytest.raises(UsageError, match="endpoint 5555 is not a string"):
        LoaderClient(5555)  # type: ignore[arg-type]


def test_numpys_integers_are_as_good_as_pythons_own(loader: LoaderClient, undisturbed: list[str]) -> None:
    stream = loader.stream(StreamSpec(seed=np.int64(3), crop=np.uint8(64)), np.int32(16))  # type: ignore[arg-type]
    batches = stream.batches(np.arange(2), first=np.int64(32), end=np.uint16(10_000))  # type: ignore[arg-type]
    assert fingerprint(batches) == undisturbed[2:]
