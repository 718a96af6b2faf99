"""How large the pieces are that a program of Triton works on."""

import triton

ELEMENTS = 1024  # of a program, in what goes element by element


def power_of_two(length: int) -> int:
    """Of a dot's side: a power of two, 16 at least."""
    return max(16, int(triton.next_power_of_2(length)))
