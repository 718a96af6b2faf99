"""MATLAB's files of version 5, as scipy and MATLAB write them, and damaged ones."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from common.imagenet.mat_file import structures

FIELDS = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")
WANTED = ("ILSVRC2012_ID", "WNID", "words")
ROWS = [(n, f"n{n:08}", "kit fox, Vulpes macrotis" if n == 1 else "caf\xe9") for n in range(1, 8)]


def written(rows: Sequence[tuple[int, str, str]], *, compressed: bool, id_type: type = np.float64) -> bytes:
    """A file of the devkit's shape: numbers, texts, an array in each of n x 1 structures, and a variable before."""
    array = np.zeros((len(rows), 1), dtype=[(name, "O") for name in FIELDS])
    for at, (number, wnid, words) in enumerate(rows):
        children = np.arange(at, dtype=np.float64)
        array[at, 0] = (id_type(number), wnid, words, "a small fox", np.float64(at), children)
    file = io.BytesIO()
    savemat(file, {"first": np.eye(3), "synsets": array}, do_compression=compressed)
    return file.getvalue()


FILES = [written(ROWS, compressed=compressed) for compressed in (False, True)]


@pytest.mark.parametrize("id_type", [np.float64, np.uint16, np.int8, np.int64, np.float32])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("count", [1, 7])
def test_the_fields_asked_for_are_read_in_their_order(count: int, compressed: bool, id_type: type) -> None:
    rows = ROWS[:count]
    assert structures(written(rows, compressed=compressed, id_type=id_type), "synsets", WANTED) == rows


def test_what_is_neither_a_whole_number_nor_a_text_is_none() -> None:
    (row,) = structures(written(ROWS[:1], compressed=True), "synsets", ("children",))
    assert row == (None,)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4),
    st.none() | st.integers(0, 1 << 16),
)
@example(FILES[0], [(128, 15)], None)
def test_damage_gives_other_values_or_a_value_error(
    data: bytes, changes: list[tuple[int, int]], cut: int | None
) -> None:
    damaged = bytearray(data)
    for at, value in changes:
        damaged[at % len(data)] = value
    try:
        rows = structures(bytes(damaged[: cut and cut % len(data)]), "synsets", WANTED)
    except ValueError:
        return
    assert all(len(row) == len(WANTED) for row in rows)


def test_every_byte_may_be_any_other() -> None:
    """Damage to the plain file, which no checksum would reveal."""
    sound = written(ROWS[:1], compressed=False)
    for at in range(len(sound)):
        for value in (0, 0x7F, 0xFF):
            damaged = bytearray(sound)
            damaged[at] = value
            with contextlib.suppress(ValueError):
                structures(bytes(damaged), "synsets", WANTED)


def with_variable(value: object, **options: object) -> bytes:
    file = io.BytesIO()
    savemat(file, {"synsets": value}, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a MATLAB version 5 file"),
        (b"no matrices at all", "not a MATLAB version 5 file"),
        (b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512), "version 7.3, which is HDF5"),
        (with_variable(7.0), "synsets is not an array of structures"),
        (with_variable("text"), "synsets is not an array of structures"),
        (with_variable({"WNID": "n1"}), "have no ILSVRC2012_ID, words"),
        (with_variable(np.zeros(9_000_000), do_compression=True), "more than 67,108,864 bytes"),
        (with_variable(np.zeros(9_000_000), do_compression=True)[:9000], "truncated or damaged"),
    ],
)
def test_another_file_is_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        structures(data, "synsets", WANTED)
