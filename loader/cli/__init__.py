"""Entry points of `alexnet-loader` and `alexnet-pack`."""

from common.cli.entry import Command, enter

_NEEDS = ("loader", ("click", "cv2", "lmdb", "PIL", "turbojpeg"))  # the extra, and what it installs


def loader() -> None:
    enter("alexnet-loader", _loader, *_NEEDS)


def pack() -> None:
    enter("alexnet-pack", _pack, *_NEEDS)


def _loader() -> Command:
    from loader.cli.serve_command import main

    return main


def _pack() -> Command:
    from loader.cli.pack_command import main

    return main
