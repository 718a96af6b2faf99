"""`alexnet-loader keys`: keys for a service and those that may connect to it."""

import re
from pathlib import Path

import click

from common import log as logs
from common.errors import UsageError


@click.command(context_settings={"show_default": True}, short_help="Make the keys of a service and its clients.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--client", default="client", metavar="NAME", help="Make the keys of one more client.")
def keys(folder: Path, client: str) -> None:
    """Make the keys in DIR with which services and clients know each other and encrypt.

    The first call makes those of the service and of one client; one with --client NAME those of another client, in
    DIR/NAME. Nothing is ever overwritten. A service that runs takes changes of DIR/clients at once.
    """
    with logs.errors_as_exit_codes("alexnet-loader keys"):
        from common import keys

        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", client, re.ASCII):
            raise UsageError(f"{client!r} is no name for a client: letters, digits, - and _ (--client)")
        made = keys.make(folder, client)
        width = max(len(str(path)) for path, _ in made)
        for path, purpose in made:
            click.echo(f"{path!s:{width}}  {purpose}")
        home = made[-1][0].parent
        click.echo(f"serve with alexnet-loader --keys {folder}, train with alexnet-trainer --keys {home}")
