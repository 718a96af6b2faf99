"""The way that copies take is the fastest one that brings the right bits."""

import pytest
import torch
from torch import Tensor

from common.errors import ExchangeError
from trainer.network import peers
from trainer.network.exchange import Way
from trainer.network.peers import Copier, choose_way, probe, ways_between

CPU = torch.device("cpu")
OTHER = torch.device("cpu", 0)  # the same memory, but not equal to CPU: a second device as far as links know
WAYS: tuple[Way, Way] = ("direct", "host")


def copier_with(*, wrong: tuple[Way, ...] = (), slow: tuple[Way, ...] = (), bit: int = 0) -> type[Copier]:
    """The real copier, but `wrong` ways lose the last number's `bit`, in small tensors only, and `slow` ways dawdle."""

    class Flawed(Copier):
        def carry(self, bits: Tensor) -> Tensor:
            arrived = super().carry(bits)
            if self.way in wrong and len(bits) == peers.SIZES_BYTES[-1] // 8:
                arrived[-1] &= ~(1 << bit)
            return arrived

        def gb_per_s(self, bits: Tensor, copies: int = 2) -> float:
            return super().gb_per_s(bits, copies) / (1e6 if self.way in slow else 1)

    return Flawed


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("target", [CPU, OTHER], ids=["one device", "two devices"])
def test_the_copier_carries_tensors_of_every_size_and_tells_its_speed(way: Way, target: torch.device) -> None:
    copier = Copier(CPU, target, way)
    for size in (1, 3, 2, 1000):
        bits = torch.randint(-9, 9, (size,))
        arrived = copier.carry(bits)
        assert torch.equal(arrived, bits)
        assert torch.equal(copier.carry(~bits), ~bits)
        assert torch.equal(arrived, bits), "what arrived is the caller's own"
    assert copier.gb_per_s(torch.arange(1 << 16)) > 0
    assert probe(copier) is not None


@pytest.mark.parametrize("slow", WAYS)
def test_the_faster_way_is_used(slow: Way, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fast = WAYS[1 - WAYS.index(slow)]
    assert choose_way(CPU, OTHER, WAYS, copier_with(slow=(slow,))) == fast
    (line,) = caplog.messages
    assert line.startswith("cpu to cpu:0: direct ")
    assert line.endswith(f" GB/s; using {fast}")


@pytest.mark.parametrize("bit", [0, 1, 31, 62])
@pytest.mark.parametrize("wrong", WAYS)
def test_a_way_that_loses_one_bit_is_not_used_however_fast(
    wrong: Way, bit: int, caplog: pytest.LogCaptureFixture
) -> None:
    right = WAYS[1 - WAYS.index(wrong)]
    assert choose_way(CPU, OTHER, WAYS, copier_with(wrong=(wrong,), slow=(right,), bit=bit)) == right
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning == f"cpu to cpu:0: {wrong} copies arrive with wrong bits, and are not used"


@pytest.mark.parametrize("ways", [WAYS, WAYS[:1], WAYS[1:]])
def test_where_no_way_is_right_there_is_no_training(ways: tuple[Way, ...]) -> None:
    with pytest.raises(ExchangeError, match=r"from cpu to cpu:0 arrive with wrong bits \(.*--exchange.*--gpus 0"):
        choose_way(CPU, OTHER, ways, copier_with(wrong=WAYS))


@pytest.mark.parametrize("way", WAYS)
def test_a_way_that_was_asked_for_is_tried_alone(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert choose_way(CPU, OTHER, (way,), copier_with(slow=(way,))) == way
    (line,) = caplog.messages
    assert line.startswith(f"cpu to cpu:0: {way} ")
    assert line.endswith(" GB/s; the only way")


@pytest.mark.parametrize(("asked", "way"), [("auto", "direct"), ("direct", "direct"), ("host", "host")])
def test_on_the_cpu_nothing_is_tried(asked: str, way: Way, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert ways_between((CPU, CPU), asked) == (way, way)
    assert caplog.messages == []
