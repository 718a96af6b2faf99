"""From options to the devices of the halves."""

import pytest
import torch

from common.errors import UsageError
from trainer.device.devices import devices_of_halves

CPU = torch.device("cpu")


@pytest.fixture
def gpus_present(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """As many GPUs as the test's parameter says, as far as counting them goes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)


@pytest.mark.parametrize(
    ("gpus_present", "gpus", "indices"),
    [
        (2, "0,1", (0, 1)),
        (2, "1,0", (1, 0)),
        (2, "1", (1, 1)),
        (1, "0", (0, 0)),
        (1, "0,0", (0, 0)),
        (2, None, (0, 1)),
        (8, None, (0, 1)),
        (1, None, (0, 0)),
        (2, " 0, 1 ", (0, 1)),
    ],
    indirect=["gpus_present"],
)
@pytest.mark.usefixtures("gpus_present")
def test_each_half_gets_the_gpu_that_was_named(gpus: str | None, indices: tuple[int, int]) -> None:
    assert devices_of_halves(gpus, cpu=False) == tuple(torch.device("cuda", index) for index in indices)


@pytest.mark.parametrize(
    ("gpus_present", "gpus", "message"),
    [
        (0, None, "no GPU found; pass --cpu to compute"),
        (0, "0", "no GPU found; pass --cpu to compute"),
        (1, "0,1", "no GPU 1; the only one is 0"),
        (2, "5", "no GPU 5; there are 0 to 1"),
        (2, "0,1,2", "not one or two GPU indices"),
        (2, "", "not one or two GPU indices"),
        (0, "one,two", "not one or two GPU indices"),
        (2, "-1", "not one or two GPU indices"),
        (2, "²", "not one or two GPU indices"),
    ],
    indirect=["gpus_present"],
)
@pytest.mark.usefixtures("gpus_present")
def test_a_gpu_that_is_not_there_is_a_usage_error(gpus: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        devices_of_halves(gpus, cpu=False)


def test_the_cpu_holds_both_halves_when_asked() -> None:
    assert devices_of_halves(None, cpu=True) == (CPU, CPU)


def test_the_cpu_and_a_gpu_are_not_asked_for_together() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        devices_of_halves("0", cpu=True)
