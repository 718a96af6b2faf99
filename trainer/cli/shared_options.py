"""Options of several commands. Parameters are named like options; `fields_of` maps them."""

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from common.cli.command_line import DEFAULT_ENDPOINT, DEFAULT_TIMEOUT_S
from common.cli.options import section, together
from trainer.recipes.named import RECIPES

devices, data = section("Devices"), section("Data")

device_options = together(
    devices("--gpus", show_default="the first two, or the only one", help="GPU of each half: 0,1; or 0 for both."),
    devices("--cpu", is_flag=True, help="Compute on the CPU."),
    devices(
        "--net",
        type=click.Choice(["halves", "one-device"]),
        show_default="halves; one-device if the recipe has one column",
        help="Two halves, or the undivided reference.",
    ),
    devices("--threads", type=click.IntRange(1), show_default="all cores", help="CPU threads that compute."),
)

more_loader_options = together(
    data(
        "--loaders",
        type=click.Path(path_type=Path),
        help="File of endpoints, one per line, reread when it changes: loaders join and leave.",
    ),
    data("--keys", type=click.Path(path_type=Path), help="Folder of keys, for loaders that require them."),
    data(
        "--loader-timeout",
        type=click.FloatRange(0, min_open=True),
        default=DEFAULT_TIMEOUT_S,
        help="Seconds without a response from a loader before giving up.",
    ),
)
loader_options = together(
    data("--loader", multiple=True, show_default=DEFAULT_ENDPOINT, help="Endpoint of an alexnet-loader; repeatable."),
    more_loader_options,
)

_FIELDS = {
    "loader": "loaders",
    "loaders": "loaders_file",
    "loader_timeout": "loader_timeout_s",
    "lr": "rate",
    "run": "folder",
    "digest": "digests",
    "every": "every_s",
    "rank_timeout": "rank_timeout_s",
}


def fields_of(options: Mapping[str, Any]) -> dict[str, Any]:
    return {_FIELDS.get(name, name): value for name, value in options.items()}


def complete_recipe(_context: click.Context, _option: click.Parameter, begun: str) -> list[str]:
    """Complete names of recipes, *.toml files and folders."""
    folder, slash, start = begun.rpartition("/")
    found = sorted(Path(folder + slash).glob(f"{glob.escape(start)}*"))
    files = [f"{path}/" if path.is_dir() else str(path) for path in found if path.suffix == ".toml" or path.is_dir()]
    return [name for name in RECIPES if name.startswith(begun)] + files
