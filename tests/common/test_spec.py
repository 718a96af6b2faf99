"""StreamSpec: checked when it is made, and named the same for ever."""

from enum import StrEnum
from typing import Any

import numpy as np
import pytest

from common.errors import UsageError
from common.spec import StreamSpec

DIGEST = b"d" * 16


class Split(StrEnum):
    VAL = "val"


def test_streams_have_the_names_that_earlier_versions_gave_them() -> None:
    spec = StreamSpec(seed=7, crop=224)
    assert spec.stream_id(DIGEST, 3).hex() == "f3c0a2389aa13b7c37a0b1046200b318"
    assert spec.name(DIGEST, "libjpeg") == "dcff7eb24ff2a5cf01227d3545ce3910"


def test_a_stream_in_record_order_is_another_stream() -> None:
    shuffled, plain = StreamSpec(seed=7), StreamSpec(seed=7, shuffle=False)
    assert shuffled.stream_id(DIGEST, 0) != plain.stream_id(DIGEST, 0)
    assert shuffled.name(DIGEST, "libjpeg") != plain.name(DIGEST, "libjpeg")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"crop": 224.0}, "crop is 224.0; it is a whole number from 1 to 256"),
        ({"crop": 0}, "crop is 0; "),
        ({"crop": True}, "crop is True; "),
        ({"crop": np.float64(224)}, "crop is .*224.0.*; "),
        ({"crop": np.array([224, 224])}, "crop is array"),
        ({"seed": -1}, f"seed is -1; it is a whole number from 0 to {2**63 - 1}"),
        ({"seed": 2**63}, "seed is 9223372036854775808; "),
        ({"seed": "7"}, "seed is '7'; "),
        ({"seed": None}, "seed is None; "),
        ({"sigma": float("nan")}, "sigma is nan; it is a number from 0 to 10"),
        ({"sigma": float("inf")}, "sigma is inf; "),
        ({"sigma": "0.1"}, "sigma is '0.1'; "),
        ({"sigma": -0.1}, "sigma is -0.1; "),
        ({"split": "test"}, "split is 'test'; it is 'train' or 'val'"),
        ({"split": ["train"]}, "split is "),
        ({"view": 1}, "view is 1; "),
        ({"pixels": np.uint8}, "pixels is "),
        ({"on_bad_record": False}, "on_bad_record is False; "),
        ({"shuffle": 0}, "shuffle is 0; it is True or False"),
    ],
)
def test_a_value_that_the_wire_does_not_carry_is_refused_where_it_is_said(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        StreamSpec(**wrong)


def test_numbers_of_numpy_and_members_of_an_enumeration_are_as_good_as_pythons_own() -> None:
    given: dict[str, Any] = {"split": Split.VAL, "seed": np.uint64(7), "crop": np.int32(224), "sigma": np.float64(0.5)}
    spec = StreamSpec(**given)
    assert spec == StreamSpec("val", 7, crop=224, sigma=0.5)
    assert [type(value) for value in (spec.split, spec.seed, spec.crop, spec.sigma)] == [str, int, int, float]
    assert spec.name(DIGEST, "") == StreamSpec("val", 7, crop=224, sigma=0.5).name(DIGEST, "")
