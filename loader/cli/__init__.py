"""Entry points of `alexnet-loader` and `alexnet-pack`."""

from common.cli.entry import Command, enter


def loader() -> None:
    enter("alexnet-loader", _loader)


def pack() -> None:
    enter("alexnet-pack", _pack)


def _loader() -> Command:
    from loader.cli.serve_command import main

    return main


def _pack() -> Command:
    from loader.cli.pack_command import main

    return main
