"""One self-contained HTML page; the one file that imports jinja2."""

import base64
import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from common.cli.console import shown_lines
from common.cli.progress import percent
from trainer.reporting.colours import TrainingImages
from trainer.reporting.curves import Plot
from trainer.reporting.drawing import Image, for_page, jpeg, png
from trainer.reporting.facts import Row
from trainer.reporting.filters import Filters
from trainer.reporting.pictures import ImageParts

TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclass(slots=True, eq=False)
class RunSection:
    """The parts about one run; None if left out."""

    row: Row
    environment: list[tuple[str, str]]
    recipe: str
    filters: Filters | None = None
    images: ImageParts | None = None


@dataclass(slots=True, eq=False)
class Page:
    """Everything on a page.

    left_out   parts, and why they are missing
    reload_s   until a browser loads it again; None for the last version
    """

    runs: list[RunSection]
    plots: Sequence[Plot]
    reach: str
    training: TrainingImages | None = None
    left_out: list[str] = field(default_factory=list)
    reload_s: float | None = None


def render(page: Page) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_harmless
    )
    environment.filters |= {"jpeg": _jpeg, "png": _png, "percent": percent, "svg": _svg}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    made = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return template.render(page=page, made=made)


def _harmless(value: Any) -> Any:
    """Names are shown with control characters as codes."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else shown_lines(value)


def _jpeg(image: Image) -> Markup:
    return _data("image/jpeg", jpeg(image))


def _png(image: Image) -> Markup:
    return _data("image/png", png(image))


def _svg(plot: Plot) -> Markup:
    """The plot as inline SVG, drawn by this program alone: names in it are escaped by matplotlib."""
    return Markup(for_page(plot.svg, plot.name))


def _data(kind: str, raw: bytes) -> Markup:
    return Markup(f"data:{kind};base64,{base64.b64encode(raw).decode()}")
