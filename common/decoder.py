"""Identity of a JPEG decoder, in WELCOME and checkpoints: `NAME pixels DIGITS`.

DIGITS, a digest of fixed JPEGs as decoded, decides; NAME is for people. Older programs gave eight digits or none.
"""

import re

_DIGITS = 32
_WITH_DIGITS = re.compile(r".* pixels ([0-9a-f]{8,})", re.DOTALL)


def named(name: str, digits: str) -> str:
    assert len(digits) == _DIGITS
    return f"{name} pixels {digits}"


def pixels_of(decoder: str) -> str:
    """The digits; the whole text if some are missing."""
    digits = _digits(decoder)
    return digits if len(digits) == _DIGITS else decoder


def may_agree(one: str, other: str) -> bool:
    """Return False if the digits that both have differ."""
    ours, theirs = _digits(one), _digits(other)
    return ours.startswith(theirs) or theirs.startswith(ours)


def name_of(decoder: str) -> str:
    return decoder.partition(" pixels ")[0]


def _digits(decoder: str) -> str:
    found = _WITH_DIGITS.fullmatch(decoder)
    return found[1] if found else ""
