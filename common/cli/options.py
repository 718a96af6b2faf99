"""Command-line options; the one file here that imports click, which the client does not need."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from .log import LEVELS

Built = TypeVar("Built", bound=click.Command)
Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Callable[..., Any]], Any]

_LAST = "Messages and help"


class Option(click.Option):
    def __init__(self, *declarations: Any, section: str = "Options", **settings: Any) -> None:
        super().__init__(*declarations, **settings)
        self.section = section


class Command(click.Command):
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if row is not None:
                sections.setdefault(getattr(parameter, "section", _LAST), []).append(row)
        for title in sorted(sections, key=_LAST.__eq__):
            with formatter.section(title):
                formatter.write_dl(sections[title])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(
            f"\nEach option can be set by an environment variable too, such as {ctx.auto_envvar_prefix}_LOG_LEVEL;\n"
            "the command line takes precedence.\n"
        )


class Group(click.Group, Command):
    """A command with subcommands."""


def command(program: str, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a click command with -h, --version and --log-level."""
    return lambda function: _built(Command, program, settings, function)


def group(program: str, **settings: Any) -> Callable[[Callable[..., Any]], Group]:
    return lambda function: _built(Group, program, settings, function)


def _built(kind: type[Built], program: str, settings: dict[str, Any], function: Callable[..., Any]) -> Built:
    context = {
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "auto_envvar_prefix": program.upper().replace("-", "_").replace(" ", "_"),
    }
    return click.command(cls=kind, context_settings=context, **settings)(_version(_log_level(function)))


def section(title: str) -> Callable[..., Decorator]:
    return functools.partial(click.option, cls=Option, section=title)


def together(*options: Decorator) -> Callable[[Function], Function]:
    return lambda function: functools.reduce(lambda decorated, option: option(decorated), reversed(options), function)


_log_level = section(_LAST)(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    help="Least severe messages to log; debug adds tracebacks.",
)
_version = click.version_option(package_name="alexnet", allow_from_autoenv=False)
