"""A process that reads a whole split, to tell if a touched file is still the dataset.

The service starts it as `python -m loader.workers.verifier FD`, FD being its end of the link, and sends one Open. It
answers Compared again and again, or Touched, or Failed.
"""

import contextlib
import os
import socket
import time
from pathlib import Path

from common.errors import DatasetError
from loader.dataset import Dataset, FileTouched
from loader.workers import child, link

_TELL_S = 0.5


def verify(file: link.Open, fd: int, service: socket.socket) -> link.Compared | link.Touched | link.Failed:
    told_s = time.monotonic()
    try:
        with Dataset(Path(os.fsdecode(file.path)), fd, file.version) as dataset:
            dataset.refuse_changes()
            for records in dataset.compare():
                if time.monotonic() - told_s > _TELL_S:
                    told_s = time.monotonic()
                    link.send(service, link.Compared(records, all=False))
            return link.Compared(dataset.records, all=True)
    except FileTouched:
        return link.Touched()
    except DatasetError as error:
        return link.Failed(None, str(error))


def main() -> None:
    service = child.joined()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        match link.receive(service):
            case link.Open() as file, int(fd):
                link.send(service, verify(file, fd, service))


if __name__ == "__main__":
    main()
