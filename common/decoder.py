"""The identity of a JPEG decoder, as services tell it and checkpoints keep it: `NAME pixels DIGITS`.

The digits are a digest of what it decodes a fixed set of JPEGs to, and decide; the name, a library's file, is for
people. Programs of before told the first eight digits alone, still older checkpoints none.
"""

import re

_DIGITS = 32
_WITH_DIGITS = re.compile(r".* pixels ([0-9a-f]{8,})", re.DOTALL)


def named(name: str, digits: str) -> str:
    """The identity of the decoder that is called `name`."""
    assert len(digits) == _DIGITS
    return f"{name} pixels {digits}"


def pixels_of(decoder: str) -> str:
    """Equal for two decoders that make the same pixels: the digits; the whole text if there are not all of them."""
    digits = _digits(decoder)
    return digits if len(digits) == _DIGITS else decoder


def may_agree(one: str, other: str) -> bool:
    """Return False if the two are known to make different pixels, as far as both tell."""
    ours, theirs = _digits(one), _digits(other)
    return ours.startswith(theirs) or theirs.startswith(ours)


def name_of(decoder: str) -> str:
    """The library's file."""
    return decoder.partition(" pixels ")[0]


def _digits(decoder: str) -> str:
    found = _WITH_DIGITS.fullmatch(decoder)
    return found[1] if found else ""
