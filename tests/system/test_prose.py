"""Docstring prose, measured over the sources, without what a program prints: a command's help, a recipe's fields.

    python tests/system/test_prose.py loader/service

prints a folder's figures, and what to reword in it.
"""

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("common", "loader", "trainer")
BAD_OPENINGS = ("What", "Of", "Whether", "Where", "How", "Which")

OPENINGS = 0.02  # of all docstrings
WHERES = 1.5  # per 1,000 docstring words
WORDS = 91.0  # per 100 lines

_COMMAND = re.compile(r"\b(command|group)\(")
_FIELD = re.compile(r"^\w+ {2,}.+$", re.MULTILINE)  # as `recipe_file` reads it


@dataclass(frozen=True)
class Docstring:
    path: Path
    line: int
    text: str

    @property
    def words(self) -> int:
        return len(self.text.split())

    @property
    def opens_badly(self) -> bool:
        """True unless it opens with a noun phrase or an imperative."""
        return self.text.split()[0] in BAD_OPENINGS

    @property
    def wheres(self) -> int:
        return len(re.findall(r"\bwhere\b", self.text, re.IGNORECASE))


@dataclass(frozen=True)
class Prose:
    docstrings: list[Docstring]
    lines: int

    @property
    def openings(self) -> float:
        return sum(each.opens_badly for each in self.docstrings) / len(self.docstrings)

    @property
    def words(self) -> int:
        return sum(each.words for each in self.docstrings)

    @property
    def wheres_per_1000(self) -> float:
        return 1000 * sum(each.wheres for each in self.docstrings) / self.words

    @property
    def words_per_100_lines(self) -> float:
        return 100 * self.words / self.lines

    def __str__(self) -> str:
        return (
            f"{self.openings:.1%} of {len(self.docstrings)} docstrings open with {', '.join(BAD_OPENINGS)}; "
            f'"where" {self.wheres_per_1000:.1f} times per 1,000 words; '
            f"{self.words_per_100_lines:.0f} words per 100 lines"
        )


def docstrings_of(source: str, path: Path) -> list[Docstring]:
    return [
        Docstring(path, node.body[0].lineno, text)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (text := _unprinted(node, ast.get_docstring(node) or "", path))
    ]


def _unprinted(node: ast.AST, text: str, path: Path) -> str:
    """The docstring without --help and without the tables of --show-recipe."""
    if isinstance(node, ast.FunctionDef) and any(_COMMAND.search(ast.unparse(each)) for each in node.decorator_list):
        return ""
    return _FIELD.sub("", text).strip() if path.parent.name == "recipes" and isinstance(node, ast.ClassDef) else text


def prose_of(*folders: Path) -> Prose:
    sources = {
        path: path.read_text()
        for folder in folders
        for path in (sorted(folder.rglob("*.py")) if folder.is_dir() else [folder])
    }
    return Prose(
        [each for path, source in sources.items() for each in docstrings_of(source, path)],
        sum(len(source.splitlines()) for source in sources.values()),
    )


def test_docstrings_open_with_a_noun_phrase_or_an_imperative_and_are_short() -> None:
    packages, tests = prose_of(*(ROOT / package for package in PACKAGES)), prose_of(ROOT / "tests")
    for prose in (packages, tests):
        assert prose.openings < OPENINGS, prose
        assert prose.wheres_per_1000 < WHERES, prose
    assert packages.words_per_100_lines < WORDS, packages


def test_the_measure_sees_openings_and_wheres() -> None:
    source = '"""Whether it is so, where it is."""\n\n\ndef f() -> None:\n    """Do it."""\n'
    prose = Prose(docstrings_of(source, Path("sample.py")), len(source.splitlines()))
    assert (prose.openings, prose.wheres_per_1000, prose.words_per_100_lines) == (0.5, 1000 / 9, 180)


def main() -> None:
    folders = [Path(name) for name in sys.argv[1:]] or [ROOT / package for package in PACKAGES]
    lines = []
    for each in prose_of(*folders).docstrings:
        if each.opens_badly or each.wheres:
            lines.append(f"{each.path}:{each.line}: {' '.join(each.text.split())}")
    for path in sorted({each.path for each in prose_of(*folders).docstrings}):
        lines.append(f"{prose_of(path).words_per_100_lines:4.0f} words per 100 lines: {path}")
    sys.stdout.write("\n".join([*lines, str(prose_of(*folders)), ""]))


if __name__ == "__main__":
    main()
