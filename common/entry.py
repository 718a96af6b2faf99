"""The first lines of every command, run before anything slow, or anything that exists on Linux alone, is imported."""

import sys
from collections.abc import Callable

from common.errors import UsageError
from common.linux import need_linux
from common.log import INTERRUPTED

Command = Callable[[], object]


def enter(program: str, find: Callable[[], Command]) -> None:
    """Run the command that `find` imports.

    Ctrl-C during the imports ends it with one line, as does another system than Linux.
    """
    try:
        need_linux()
        command = find()
    except UsageError as error:
        sys.stderr.write(f"{program}: error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted\n")
        sys.exit(INTERRUPTED)
    command()
