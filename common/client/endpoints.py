"""A file of loader endpoints, one a line, reread when it changes. Replace it atomically (`mv new loaders.txt`).

tcp://10.0.0.6:5555     # since Tuesday
"""

import re
from pathlib import Path

from ..errors import UsageError

LOOK_S = 1.0  # between two looks at the file
_ENDPOINT = re.compile(r"(ipc://\S+|tcp://\S+:\d{1,5})", re.ASCII)

_Signature = tuple[int, int, int]  # time of the last change, which nobody can set back; inode; size


class EndpointsFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked_s = float("-inf")
        self._seen: _Signature | None = None

    def changed(self, now_s: float) -> list[str] | None:
        """The endpoints if the file changed since the last call, or on the first; looks once in LOOK_S.

        Raises UsageError, once for each change, if it is unreadable or a line is no endpoint.
        """
        if now_s - self._looked_s < LOOK_S:
            return None
        first, self._looked_s = self._looked_s == float("-inf"), now_s
        seen, self._seen = self._seen, self._signature()
        return None if seen == self._seen and not first else self._read()

    def _signature(self) -> _Signature | None:
        try:
            now = self._path.stat()
        except OSError:
            return None
        return now.st_ctime_ns, now.st_ino, now.st_size

    def _read(self) -> list[str]:
        try:
            lines = self._path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{self._path} cannot be read: {error} (--loaders)") from None
        endpoints = []
        for number, line in enumerate(lines, start=1):
            if endpoint := line.split("#")[0].strip():
                if not _ENDPOINT.fullmatch(endpoint):
                    raise UsageError(
                        f"{self._path}, line {number}: {endpoint!r} is not like tcp://host:5555 (--loaders)"
                    )
                endpoints.append(endpoint)
        if not endpoints:
            raise UsageError(f"{self._path} names no loader, as tcp://host:5555 on a line of its own (--loaders)")
        return endpoints
