"""Confidence intervals of error rates."""

import math

_Z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations


def wilson(share: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `images` independent images: its bounds, 0 to 1."""
    spread = _Z**2 / images
    middle = share + spread / 2
    half = math.sqrt(spread * (share * (1 - share) + spread / 4))
    low, high = ((middle + side) / (1 + spread) for side in (-half, half))
    return max(0.0, min(share, low)), min(1.0, max(share, high))  # at 0 and 1 a bound is the share, but for rounding


def in_percent(share: float, images: int) -> str:
    """`3.9..8.0`, in percent."""
    low, high = wilson(share, images)
    return f"{100 * low:.1f}..{100 * high:.1f}"
