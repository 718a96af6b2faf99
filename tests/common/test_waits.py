"""Every wait is divided among its reasons, whole; and only what happened during it counts."""

from collections.abc import Iterator
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.client.batch import Batch, BatchFormat, BatchRequest, Timeline
from common.client.waits import WaitClock, Waits, divided, waits_over
from common.errors import WireError
from common.spec import StreamInfo, StreamSpec
from common.wire.fields import StageTimes
from common.wire.messages import NO_SLOT, BatchReply

STAGES = StageTimes(for_worker=50, for_slot=150, read=100, decode=800, augment=100)  # 1200 in all

microseconds = st.integers(0, 10**9)
stage_times = st.builds(StageTimes, *[microseconds] * len(StageTimes._fields))


@given(microseconds, microseconds, stage_times)
def test_the_parts_are_never_negative_and_add_up_to_the_wait(waited: int, lived: int, stages: StageTimes) -> None:
    waits = divided(waited, lived, stages)
    assert min(astuple(waits)) >= 0
    assert waits.total == waited


@given(microseconds, microseconds, microseconds, stage_times)
def test_a_longer_wait_takes_nothing_away_from_what_came_last(a: int, b: int, lived: int, stages: StageTimes) -> None:
    short, long = (divided(waited, lived, stages) for waited in sorted((a, b)))
    for part in (working, queued):
        assert part(short) <= part(long)
    assert short.wire <= long.wire
    assert short.no_loader <= long.no_loader


@given(microseconds, microseconds, stage_times)
def test_no_part_is_longer_than_it_lasted(waited: int, lived: int, stages: StageTimes) -> None:
    waits = divided(waited, lived, stages)
    told = StageTimes(waits.workers_busy, waits.free_slot, waits.read, waits.decode, waits.augment)
    assert all(part <= whole + 1 for part, whole in zip(told, stages, strict=True))  # whole microseconds
    assert waits.wire <= max(0, lived - sum(stages))


def working(waits: Waits) -> int:
    return waits.read + waits.decode + waits.augment


def queued(waits: Waits) -> int:
    return waits.workers_busy + waits.free_slot


@pytest.mark.parametrize(
    ("waited", "lived", "expected"),
    [
        (0, 1500, Waits()),
        (200, 1500, Waits(wire=200)),  # it had come to us nearly
        (300, 1500, Waits(wire=300)),
        (800, 1500, Waits(wire=300, read=50, decode=400, augment=50)),  # half of its pictures were ready
        (1300, 1500, Waits(wire=300, read=100, decode=800, augment=100)),
        (1400, 1500, Waits(wire=300, read=100, decode=800, augment=100, workers_busy=25, free_slot=75)),
        (
            9500,
            1500,
            Waits(wire=300, read=100, decode=800, augment=100, workers_busy=50, free_slot=150, no_loader=8000),
        ),
        (1200, 500, Waits(no_loader=700, read=50, decode=400, augment=50)),  # asked again after a silence
        (1200, 1100, Waits(no_loader=100, read=100, decode=800, augment=100, workers_busy=25, free_slot=75)),
    ],
)
def test_a_wait_covers_the_end_of_a_life(waited: int, lived: int, expected: Waits) -> None:
    assert divided(waited, lived, STAGES) == expected


def test_a_batch_that_had_come_before_the_wait_was_only_taken_over() -> None:
    assert waits_over(10.0, 10.001, Timeline(1.0, 10.0, STAGES)) == Waits(wire=1000)
    assert waits_over(10.0, 10.001, Timeline(1.0, 10.0005, STAGES)) == Waits(wire=1000)  # it lay there: 9 s of the life


def test_what_nobody_knows_of_had_no_loader() -> None:
    assert waits_over(10.0, 11.0, None) == Waits(no_loader=1_000_000)
    silent = Timeline(None, 11.0, StageTimes(for_worker=600_000, decode=400_000))
    assert waits_over(10.0, 11.0, silent) == Waits(no_loader=600_000, decode=400_000)


def test_a_copy_of_a_batch_has_its_timeline() -> None:
    timeline = Timeline(1.0, 2.0, STAGES)
    assert batch(timeline).copy().timeline is timeline


def test_a_reply_tells_how_many_of_its_images_were_decoded_and_no_more_than_it_has() -> None:
    spec, count = StreamSpec(crop=1), 2
    form = BatchFormat(spec, StreamInfo(count, ("ape",), np.zeros(0, np.float32), b"", ""), digests=False)
    words, pixels = bytes(4 * count), memoryview(bytes(3 * count))
    request, reply = BatchRequest(1, 0, 0, count), BatchReply(1, bytes(16), words, words, NO_SLOT, b"", b"", [], [], 3)
    with pytest.raises(WireError, match="3 of 2 images cannot have been decoded"):
        form.batch(request, reply, pixels, Timeline(1.0, 2.0, STAGES))
    assert len(form.batch(request, replace(reply, decoded=2), pixels, Timeline(1.0, 2.0, STAGES))) == 2


def batch(timeline: Timeline) -> Batch:
    none = np.zeros(0, np.int64)
    return Batch(0, 0, np.zeros((0, 8, 8, 3), np.uint8), none, none, timeline=timeline)


def test_the_clock_adds_up_what_a_slow_sender_took_and_nothing_of_the_readers_own_time() -> None:
    now_s = 100.0

    def slow_sender() -> Iterator[Batch]:
        nonlocal now_s
        for _ in range(3):
            asked_s = now_s - 70.0  # one was asked for ahead
            now_s += 5.0
            yield batch(
                Timeline(asked_s, now_s, StageTimes(for_worker=72_000_000, decode=2_000_000, augment=1_000_000))
            )

    clock = WaitClock(lambda: now_s)
    for _ in clock.timed(slow_sender()):
        now_s += 70.0
    assert clock.waits == Waits(workers_busy=6_000_000, decode=6_000_000, augment=3_000_000)
    assert clock.waited_s == 15.0


@given(st.lists(st.builds(Waits, *[microseconds] * 7), max_size=5))
def test_waits_are_added_and_taken_apart_by_reason(several: list[Waits]) -> None:
    whole = sum(several, Waits())
    assert whole.total == sum(waits.total for waits in several)
    for waits in several:
        whole -= waits
    assert whole == Waits()
