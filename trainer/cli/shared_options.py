"""Options that the trainer's commands have in common."""

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from common.cli.command_line import DEFAULT_ENDPOINT
from trainer.recipes.named import RECIPES

Command = TypeVar("Command", bound=Callable[..., Any])


def device_options(command: Command) -> Command:
    """--gpus, --cpu, --net, --threads."""
    options = (
        click.option(
            "--gpus", help="GPU of each half: 0,1, or 0 for both on one.", show_default="the first two, or the one"
        ),
        click.option("--cpu", is_flag=True, help="Compute on the CPU."),
        click.option(
            "--net",
            type=click.Choice(["halves", "one-device"]),
            show_default="halves; one-device where the recipe has one column",
            help="Two halves, or the undivided reference.",
        ),
        click.option(
            "--threads", type=click.IntRange(1), show_default="all cores", help="Threads that compute on the CPU."
        ),
    )
    return _with(options, command)


def loader_options(command: Command) -> Command:
    """--loader, --loaders, --keys, --loader-timeout."""
    options = (
        click.option(
            "--loader",
            "loaders",
            multiple=True,
            show_default=DEFAULT_ENDPOINT,
            help="Endpoint of an alexnet-loader; may be repeated.",
        ),
        click.option(
            "--loaders",
            "loaders_file",
            type=click.Path(path_type=Path),
            help="File of such endpoints, one a line; read again when it changes, so that loaders join and leave.",
        ),
        click.option("--keys", type=click.Path(path_type=Path), help="Folder of keys for a loader that wants them."),
        click.option(
            "--loader-timeout",
            "loader_timeout_s",
            type=click.FloatRange(0, min_open=True),
            default=60.0,
            help="Seconds without a word from the loader before giving up.",
        ),
    )
    return _with(options, command)


def complete_recipe(_context: click.Context, _option: click.Parameter, begun: str) -> list[str]:
    """For a shell's <TAB>: recipes by name, *.toml files, and folders, in which there may be more of them."""
    folder, slash, start = begun.rpartition("/")
    found = sorted(Path(folder + slash).glob(f"{glob.escape(start)}*"))
    files = [f"{path}/" if path.is_dir() else str(path) for path in found if path.suffix == ".toml" or path.is_dir()]
    return [name for name in RECIPES if name.startswith(begun)] + files


def _with(options: tuple[Callable[[Command], Command], ...], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
