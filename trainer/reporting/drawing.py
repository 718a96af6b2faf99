"""Plots as SVG and images as PNG or JPEG; the one file that imports matplotlib.

Text and axes of an SVG are drawn in INK, which a page replaces by its text colour and a file by a grey that can be read
on light and dark. Text stays text, in the page's font.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

INK, GREY = "#010203", "#808488"
COLOURS = ("#3a86d8", "#d9822b", "#3fa34d", "#c2508f", "#8a6fd1", "#1f9aa5", "#a8871a", "#d24d3e")
_SIZE = 4.4, 2.9  # inches: 422 pixels of a screen, so that 10 points are 12 pixels at a width of 400
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "text.parse_math": False,
}

Image = npt.NDArray[np.uint8]  # height x width x 3, RGB


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a plot; `label` is its entry in the legend, if any."""

    x: Sequence[float]
    y: Sequence[float]
    colour: str
    label: str = ""
    style: str = "-"
    marked: bool = False
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Axes:
    """`top` and `level` in the units of y."""

    ylabel: str
    xlabel: str = "epochs"
    top: float | None = None
    logarithmic: bool = False
    level: float | None = None


def lines_svg(lines: Sequence[Line], axes: Axes) -> str:
    with _plot(axes) as (drawn, plot):
        for line in lines:
            marker = "o" if line.marked else ""
            drawn.plot(
                line.x,
                line.y,
                line.style,
                color=line.colour,
                linewidth=1.4,
                marker=marker,
                markersize=3,
                drawstyle="steps-post" if line.steps else "default",
            )
        if axes.level is not None:
            drawn.axhline(axes.level, color=INK, alpha=0.5, linewidth=0.8)
        if axes.logarithmic:
            drawn.set_yscale("log")
            _tick(drawn, sorted({value for line in lines for value in line.y}))
        else:
            drawn.set_ylim(0, axes.top)
        _legend(plot, drawn, {each.label: line for each, line in zip(lines, drawn.lines, strict=False) if each.label})
        return _svg(plot)


def stack_svg(x: Sequence[float], shares: Mapping[str, Sequence[float]], axes: Axes) -> str:
    with _plot(axes) as (drawn, plot):
        areas = drawn.stackplot(x, *shares.values(), colors=COLOURS, linewidth=0)
        highest = max(map(sum, zip(*shares.values(), strict=True)), default=0.0)
        drawn.set_ylim(0, max(highest * 1.05, axes.top or 0.0))
        _legend(plot, drawn, dict(zip(shares, areas, strict=True)))
        return _svg(plot)


def png(image: Image) -> bytes:
    return _encoded(image, format="png")


def jpeg(image: Image, quality: int = 85) -> bytes:
    return _encoded(image, format="jpeg", pil_kwargs={"quality": quality})


def for_page(svg: str, name: str) -> str:
    """Inline SVG whose ids begin with `name`, unlike those of any other plot of the page."""
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg[svg.index("<svg") :])
    svg = re.sub(r'(<svg [^>]*?)width="[^"]+" height="[^"]+"|<metadata>.*?</metadata>', r"\1", svg, flags=re.DOTALL)
    svg = re.sub(r"'[^']*'(, '[^']*')*, sans-serif", "inherit", svg)
    return re.sub(r' xmlns(:\w+)?="[^"]*"| version="1.1"', "", svg.replace("xlink:href", "href")).replace(
        INK, "currentColor"
    )


def for_file(svg: str) -> str:
    return svg.replace(INK, GREY)


@contextmanager
def _plot(axes: Axes) -> Iterator[tuple[Any, Figure]]:
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's font may have it
        plot = Figure(figsize=_SIZE, layout="constrained")
        drawn = plot.add_subplot()
        drawn.set(xlabel=axes.xlabel, ylabel=axes.ylabel)
        drawn.margins(x=0.02)
        drawn.grid(True)
        yield drawn, plot


def _tick(drawn: Any, values: Sequence[float], most: int = 8) -> None:
    """Mark the values themselves, unless there are many; no tick is written as a power."""
    if len(values) <= most:
        drawn.set_yticks(values)
    drawn.yaxis.set_major_formatter(lambda value, _place: f"{value:g}")
    drawn.yaxis.set_minor_formatter(lambda _value, _place: "")


def _legend(plot: Figure, drawn: Any, artists: Mapping[str, Any]) -> None:
    if artists:
        names = [name.lstrip("_") or "-" for name in artists]  # matplotlib leaves out what begins with _
        drawn.legend(list(artists.values()), names, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def _svg(plot: Figure) -> str:
    file = io.StringIO()
    plot.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _encoded(image: Image, **how: Any) -> bytes:
    file = io.BytesIO()
    matplotlib.image.imsave(file, image, **how)
    return file.getvalue()
