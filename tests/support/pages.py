"""An HTML page as a browser reads it, and its faults."""

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "br", "img", "input", "hr"}
LINKING = ("src", "href", "srcset", "action", "poster", "data", "xlink:href")


class ReadPage(HTMLParser):
    """`ids` and `text` of a page; `faults` are unclosed elements, doubled ids, other hosts, images without words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.ids: list[str] = []
        self.images: list[str] = []
        self.faults: list[str] = []
        self._open: list[str] = []
        self._words: list[str] = []
        self.feed(self.source)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag in self._open]
        self.faults += [f"two elements {each}" for each in set(self.ids) if self.ids.count(each) > 1]
        self.faults += re.findall(r"@import|url\((?!#)[^)]*\)|https?://[^\s<>\"']+", self.source)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, dict(attrs))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._open):
            self._words.append(data)

    def _note(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.ids += [attributes["id"] or ""] if "id" in attributes else []
        for name in LINKING:
            if not (attributes.get(name) or "#").startswith(("#", "data:")):
                self.faults.append(f"<{tag} {name}={attributes[name]}>")
        if tag == "img":
            attributes.setdefault("alt", "")
            self.images.append(attributes["alt"] or "")
        if (tag == "img" and not attributes.get("alt")) or (
            attributes.get("role") == "img" and not attributes.get("aria-label")
        ):
            self.faults.append(f"<{tag}> at {self.getpos()} has no words")
