"""What a local response normalisation is, whoever computes it."""

from typing import Literal, NamedTuple


class Norm(NamedTuple):
    """One normalisation's constants; `alpha` multiplies the bare sum of squares, undivided by any size."""

    over: Literal["channels", "maps"]
    size: int  # odd; of a side, over maps
    k: float
    alpha: float
    beta: float
