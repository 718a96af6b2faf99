"""`alexnet-loader` on a host whose memory is short while FILE exists.

python -m tests.support.pressed FILE python -m loader.cli.serve_command OPTIONS...
"""

import sys
from pathlib import Path

from common.host_memory import memory_size
from loader.service import resources


def main() -> None:
    file, options = Path(sys.argv[1]), sys.argv[5:]

    def available_memory(*_: object, **__: object) -> int:
        return memory_size() // (100 if file.exists() else 2)

    resources.available_memory = available_memory  # type: ignore[attr-defined]
    from loader.cli.serve_command import main as serve

    serve(options)


if __name__ == "__main__":
    main()
