"""Descriptions of classes: `n01440764 tench, Tinca tinca` a line, after a tab or a space.

So they are in WordNet's and Tiny ImageNet's words.txt, and in Kaggle's LOC_synset_mapping.txt.
"""

from pathlib import Path

from ..untrusted import read_regular

_MAX_BYTES = 1 << 26  # WordNet's have 3 MB
_MAX_WORDS = 200  # characters


def read_words(path: Path) -> dict[str, str]:
    """Descriptions by class name, cut to 200 characters. Raises OSError."""
    lines = read_regular(path, _MAX_BYTES).decode("utf-8-sig", "replace").splitlines()
    rows = (line.partition("\t" if "\t" in line else " ") for line in lines)
    return {name: words.strip()[:_MAX_WORDS] for name, _, words in rows if words.strip()}
