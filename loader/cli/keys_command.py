"""`alexnet-loader keys`: keys for a service and the clients that may connect to it."""

import re
from pathlib import Path

import click

from common.cli import log as logs
from common.cli import options
from common.cli.console import say, shown
from common.errors import UsageError

_PROGRAM = "alexnet-loader keys"
_option = options.section("Options")


@options.command(_PROGRAM, short_help="Make keys for a service and its clients.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@_option("--client", default="client", metavar="NAME", help="Make the keys of one more client.")
def keys(folder: Path, client: str, log_level: str) -> None:
    """Make the keys in DIR with which services and clients recognise each other and encrypt.

    The first call makes those of the service and of one client; a call with --client NAME those of another client, in
    DIR/NAME. Nothing is overwritten. A running service takes changes of DIR/clients at once.
    """
    logs.setup(_PROGRAM, log_level)
    with logs.errors_as_exit_codes(_PROGRAM):
        from common.wire import keys

        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", client, re.ASCII):
            raise UsageError(f"{client!r} is no name for a client: letters, digits, - and _ (--client)")
        made = keys.make(folder, client)
        width = max(len(shown(path)) for path, _ in made)
        for path, purpose in made:
            say(f"{shown(path):{width}}  {purpose}")
        home = made[-1][0].parent
        say(f"serve with alexnet-loader --keys {shown(folder)}, train with alexnet-trainer --keys {shown(home)}")
