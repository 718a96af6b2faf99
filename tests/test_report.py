"""What a person reads of a run while it goes on."""

import json
from dataclasses import asdict

import pytest

from common.waits import Waits
from trainer.report import Now, Tally

NOW = Now(
    epoch=2,
    epochs=12,
    step_of_epoch=5,
    steps_per_epoch=63,
    images_per_s=1234.5,
    loss=1.5,
    error=0.5,
    wait_share=0.25,
    eta_s=200.0,
)


def test_the_line_says_where_training_stands() -> None:
    line = NOW.line()
    assert line == (
        "epoch 3/12  step 5/63  1,234 images/s  loss 1.500  error 50.0 %  waiting for data 25.0 %  ETA 3m20s"
    )


def test_a_tally_comes_back_from_a_checkpoint_with_every_wait() -> None:
    tally = Tally(8, 2.5, 0.5, 10.0, Waits(no_loader=1, decode=3_000_000, wire=5), 2)
    assert Tally.of(json.loads(json.dumps(asdict(tally)))) == tally
    assert Tally.of({}) == Tally()


def test_the_shares_of_the_reasons_add_up_to_the_share_of_the_waits() -> None:
    earlier = Tally(seconds=10.0, waits=Waits(read=1_000_000, decode=2_000_000))
    lately = Tally(seconds=30.0, waits=Waits(read=3_000_000, decode=5_000_000, wire=5_000_000)).since(earlier)
    assert lately.wait_shares == pytest.approx(
        dict.fromkeys(asdict(Waits()), 0.0) | {"read": 0.1, "decode": 0.15, "wire": 0.25}
    )
    assert lately.wait_share == sum(lately.wait_shares.values())
    assert Tally().wait_share == 0
