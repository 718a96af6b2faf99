"""The summary at an epoch's end: each cause of waiting with what would help against it, and only that."""

import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.client.stream_sessions import Loaders
from common.client.waits import Waits
from tests.support.processes import wait_for
from trainer.recipes.named import DEMO, SOURCE
from trainer.training.contention import Contention
from trainer.training.schedule import Outlook
from trainer.training.summary import (
    beginning_in_words,
    cores_in_words,
    course_in_words,
    waits_in_words,
)

LOCAL = Loaders(hosts=1, workers=2, cores=8, by_socket=0)
NONE = dict.fromkeys(asdict(Waits()), 0.0)


def told(loaders: Loaders = LOCAL, **shares: float) -> str:
    assert shares.keys() <= NONE.keys()
    return waits_in_words(NONE | shares, loaders, 1234.5, 50_000)


def test_waits_that_are_short_are_left_alone() -> None:
    assert told(decode=0.004) == "waited 0.4 % of the time for data: nothing to gain there"
    assert told() == "waited 0.0 % of the time for data: nothing to gain there"


def test_cores_that_other_programs_take_are_told() -> None:
    assert cores_in_words(0.456).startswith("other programs had this one's cores for 45.6 % of the time")
    assert cores_in_words(0.05) == ""


def test_short_cores_are_told_apart_from_nothing_to_gain_and_from_too_few_workers() -> None:
    short = "waited 0.4 % of the time for data: the cores were short, not the data"
    assert waits_in_words(NONE | {"decode": 0.004}, LOCAL, 1234.5, 50_000, 0.3) == short
    busy = {"decode": 0.15, "workers_busy": 0.05}
    assert "whose cores other programs hold" in waits_in_words(NONE | busy, LOCAL, 1234.5, 50_000, 0.3)
    elsewhere = replace(LOCAL, by_socket=1)  # its cores are not these
    assert "more workers would help" in waits_in_words(NONE | busy, elsewhere, 1234.5, 50_000, 0.3)
    assert "more workers would help" in waits_in_words(NONE | busy, LOCAL, 1234.5, 50_000, 0.05)


def test_a_net_that_has_learnt_nothing_is_told_so_with_what_helps() -> None:
    narrow = replace(SOURCE, classes=200, width=0.25)
    told = beginning_in_words(narrow, 5.298 * 1.009)
    assert told.startswith("nothing learnt yet: the loss is that of guessing, 5.298 for 200 classes; what helps: more")
    assert told.endswith('more steps, full --width, weight_std = "he" in a recipe file (--show-recipe writes one)')
    assert "--width" not in beginning_in_words(replace(narrow, width=1.0), 5.298)
    assert beginning_in_words(DEMO, 2.31).endswith("what helps: more steps")
    assert beginning_in_words(narrow, 5.298 * 0.98) == beginning_in_words(narrow, 5.298 * 1.02) == ""
    assert beginning_in_words(replace(DEMO, classes=1), 0.0) == ""


def test_contention_for_the_cores_is_seen() -> None:
    burning = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(burning) for _ in range(2 * len(os.sched_getaffinity(0)))]
    contention = Contention()

    def noticed_at_work() -> bool:
        return sum(range(1_000_000)) > 0 and contention.share > 0.1

    try:
        wait_for("other programs to be noticed", noticed_at_work)
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_fewer_workers_than_cores_could_be_more() -> None:
    assert told(decode=0.15, workers_busy=0.05, augment=0.03, read=0.004, wire=0.001) == (
        "waited 23.5 % of the time for data: decoding 15.0 %, all workers at other batches 5.0 %, augmenting 3.0 %;"
        " more workers would help where cores are free (2 workers on 8 cores; alexnet-loader --workers)"
    )


@pytest.mark.parametrize("workers", [8, 9])
def test_as_many_workers_as_cores_want_another_host(workers: int) -> None:
    words = told(replace(LOCAL, workers=workers), decode=0.23)
    assert f"every core has its worker ({workers} workers on 8 cores): another host would help (--loader)" in words
    assert "1 worker on 1 core" in told(Loaders(1, 1, 1, 0), decode=0.5)


@pytest.mark.parametrize("workers", [2, 8])
def test_a_slow_disk_is_not_helped_by_workers_or_hosts(workers: int) -> None:
    words = told(replace(LOCAL, workers=workers), read=0.2, decode=0.1, workers_busy=0.05)
    assert "the loader's disk is the limit, it gives 1,234 reads a second: a local or faster one would help" in words
    assert "(decoded it takes 9.2 GiB: alexnet-loader --decoded-gib)" in words
    assert "--workers" not in words
    assert "--loader" not in words


def test_a_connection_is_not_helped_by_workers() -> None:
    words = told(replace(LOCAL, by_socket=1), wire=0.3, decode=0.2)
    assert "on the wire 30.0 %, decoding 20.0 %; the connection is the limit" in words
    assert "shared memory" in words


def test_what_is_slow_through_shared_memory_is_no_connection() -> None:
    words = told(wire=0.3)
    assert "waited for their turns on this host" in words
    assert "connection" not in words


def test_a_trainer_that_holds_all_slots_is_told_so() -> None:
    assert "this trainer held every slot" in told(free_slot=0.3, decode=0.1)


def test_a_loader_that_was_gone_had_better_be_two() -> None:
    assert "a second --loader would stand in" in told(no_loader=0.3, decode=0.1)
    assert "their logs say why" in told(replace(LOCAL, hosts=2), no_loader=0.3, decode=0.1)


def test_workers_are_the_cause_where_all_that_they_do_together_is() -> None:
    assert "more workers" in told(wire=0.1, decode=0.08, augment=0.04)


@given(
    st.fixed_dictionaries({reason: st.floats(0, 1 / 7) for reason in NONE}),
    st.builds(Loaders, *[st.integers(0, 100)] * 4),
)
def test_there_are_words_for_everything(shares: dict[str, float], loaders: Loaders) -> None:
    words = waits_in_words(shares, loaders, 1.0, 1)
    assert words.startswith("waited ")
    assert "\n" not in words


STEADY = Outlook(rate=0.01, from_epoch=None, patience=None)


def test_the_lowest_error_so_far_is_said() -> None:
    words = course_in_words(4, (0.283, 4), 0.01, STEADY, 3600.0)
    assert words == "the lowest validation error so far; learning rate 0.01; about 1h00m left"


def test_an_error_that_falls_no_more_is_said_with_what_will_come_of_it() -> None:
    patient = replace(STEADY, patience=2)
    words = course_in_words(7, (0.283, 4), 0.01, patient, 60.0)
    assert words == (
        "no lower validation error for 3 epochs (lowest 28.3 %, epoch 5);"
        " learning rate 0.01, drops after 2 epochs without a lower error; about 1m00s left"
    )


def test_a_rate_that_changed_just_now_is_said_and_one_that_will() -> None:
    lower, other_later = replace(STEADY, rate=0.001), replace(STEADY, from_epoch=25)
    assert "learning rate now 0.001, until here 0.01;" in course_in_words(4, None, 0.01, lower, 9.0)
    assert "learning rate 0.01, another from epoch 26 on" in course_in_words(4, None, 0.01, other_later, 9.0)


def test_at_the_end_nothing_is_to_come() -> None:
    assert course_in_words(11, (0.05, 10), 0.01, STEADY, None) == (
        "no lower validation error for 1 epoch (lowest 5.0 %, epoch 11)"
    )
    assert course_in_words(11, None, 0.01, STEADY, None) == ""
