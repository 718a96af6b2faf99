"""`alexnet-loader keys`: keys for a service and those that may connect to it."""

import re
from pathlib import Path

import click

from common.cli import log as logs
from common.cli.console import say, shown
from common.errors import UsageError


@click.command(context_settings={"show_default": True}, short_help="Make the keys of a service and its clients.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--client", default="client", metavar="NAME", help="Make the keys of one more client.")
@click.option("--verbose", is_flag=True, help="Log more.")
def keys(folder: Path, client: str, verbose: bool) -> None:
    """Make the keys in DIR with which services and clients know each other and encrypt.

    The first call makes those of the service and of one client; one with --client NAME those of another client, in
    DIR/NAME. Nothing is ever overwritten. A service that runs takes changes of DIR/clients at once.
    """
    logs.setup("alexnet-loader keys", verbose)
    with logs.errors_as_exit_codes("alexnet-loader keys"):
        from common.wire import keys

        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", client, re.ASCII):
            raise UsageError(f"{client!r} is no name for a client: letters, digits, - and _ (--client)")
        made = keys.make(folder, client)
        width = max(len(shown(path)) for path, _ in made)
        for path, purpose in made:
            say(f"{shown(path):{width}}  {purpose}")
        home = made[-1][0].parent
        say(f"serve with alexnet-loader --keys {shown(folder)}, train with alexnet-trainer --keys {shown(home)}")
