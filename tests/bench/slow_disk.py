"""A folder seen through FUSE as on a slow disk: each read is answered after a delay, any number of them at once.

    python tests/bench/slow_disk.py FOLDER MOUNTPOINT --ms 2

Needs root and /dev/fuse. Read-only, the files of one folder. Prints `mounted`; then, for each line on standard input,
the reads answered so far and the sum of their times in flight, in seconds. Ends and unmounts when its input ends.
"""

import argparse
import ctypes
import errno
import heapq
import os
import select
import stat
import struct
import sys
import time
from pathlib import Path

_IN, _OUT = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
_READ = struct.Struct("<QQI")
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ_FILE, _STATFS, _RELEASE = 1, 2, 3, 14, 15, 17, 18
_FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR, _ACCESS, _INTERRUPT, _BATCH_FORGET = 25, 26, 27, 28, 29, 34, 36, 42
_NO_REPLY = (_FORGET, _INTERRUPT, _BATCH_FORGET)
_ASYNC_READ, _KEEP_CACHE = 1, 2
_MOST_AT_ONCE = 4096  # background requests that the kernel may have in flight
_FOR_EVER_S = 1 << 20
_ROOT_NODE = 1


class SlowDisk:
    """Answers the kernel's requests for the files in `folder`."""

    def __init__(self, folder: Path, delay_s: float, device: int) -> None:
        self._delay_s, self._device = delay_s, device
        self._nodes = {_ROOT_NODE: (os.open(folder, os.O_RDONLY), folder.name)}
        for number, path in enumerate(sorted(folder.iterdir()), _ROOT_NODE + 1):
            if path.is_file():
                self._nodes[number] = os.open(path, os.O_RDONLY), path.name
        self._due: list[tuple[float, int, int, int, int]] = []  # when, request, file, offset, size
        self.reads, self.in_flight_s = 0, 0.0

    def serve(self) -> None:
        """Answer until standard input ends."""
        poller = select.poll()
        poller.register(self._device, select.POLLIN)
        poller.register(0, select.POLLIN)
        while True:
            wait_ms = max(0.0, (self._due[0][0] - time.monotonic()) * 1e3) if self._due else None
            for source, _ in poller.poll(wait_ms):
                if source == self._device:
                    self._take_in(os.read(self._device, 1 << 17))
                elif not os.read(0, 1 << 16):
                    return
                else:
                    sys.stdout.write(f"{self.reads} {self.in_flight_s}\n")
                    sys.stdout.flush()
            while self._due and self._due[0][0] <= time.monotonic():
                _, unique, fd, offset, size = heapq.heappop(self._due)
                self._answer(unique, os.pread(fd, size, offset))

    def _take_in(self, message: bytes) -> None:
        _, kind, unique, node, *_ = _IN.unpack_from(message)
        body = message[_IN.size :]
        if kind == _READ_FILE:
            _, offset, size = _READ.unpack_from(body)
            heapq.heappush(self._due, (time.monotonic() + self._delay_s, unique, self._nodes[node][0], offset, size))
            self.reads, self.in_flight_s = self.reads + 1, self.in_flight_s + self._delay_s
        elif kind not in _NO_REPLY:
            try:
                self._answer(unique, self._reply(kind, node, body))
            except OSError as error:
                os.write(self._device, _OUT.pack(_OUT.size, -(error.errno or errno.EIO), unique))

    def _reply(self, kind: int, node: int, body: bytes) -> bytes:
        if kind == _INIT:
            most = struct.pack("<HH", _MOST_AT_ONCE, _MOST_AT_ONCE)
            return struct.pack("<IIII", 7, 31, 1 << 17, _ASYNC_READ) + most + bytes(44)
        if kind == _LOOKUP:
            name = body.rstrip(b"\0").decode()
            found = [number for number, (_, of) in self._nodes.items() if of == name and number != _ROOT_NODE]
            if not found:
                raise FileNotFoundError(errno.ENOENT, name)
            return struct.pack("<QQQQII", found[0], 0, _FOR_EVER_S, _FOR_EVER_S, 0, 0) + self._attributes(found[0])
        if kind == _GETATTR:
            return struct.pack("<QII", _FOR_EVER_S, 0, 0) + self._attributes(node)
        if kind in (_OPEN, _OPENDIR):
            return struct.pack("<QIi", 0, _KEEP_CACHE, 0)
        if kind == _STATFS:
            return bytes(80)
        if kind in (_RELEASE, _RELEASEDIR, _FLUSH, _ACCESS, _READDIR):
            return b""
        raise OSError(errno.ENOSYS, "not of this disk")

    def _attributes(self, node: int) -> bytes:
        of = os.fstat(self._nodes[node][0])
        mode = of.st_mode if stat.S_ISREG(of.st_mode) else stat.S_IFDIR | 0o755
        seconds = [int(of.st_atime), int(of.st_mtime), int(of.st_ctime)]
        return _ATTRIBUTES.pack(
            node, of.st_size, of.st_blocks, *seconds, 0, of.st_mtime_ns % 10**9, of.st_ctime_ns % 10**9,
            mode, 1, os.getuid(), os.getgid(), 0, 4096, 0,
        )  # fmt: skip

    def _answer(self, unique: int, data: bytes) -> None:
        os.writev(self._device, [_OUT.pack(_OUT.size + len(data), 0, unique), data])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--ms", type=float, default=2.0, help="until a read is answered")
    given = parser.parse_args()
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    target = os.fsencode(given.mountpoint.resolve())
    if libc.mount(b"slow_disk", target, b"fuse", 1, options) != 0:  # 1 is MS_RDONLY
        raise OSError(ctypes.get_errno(), f"cannot mount FUSE: {os.strerror(ctypes.get_errno())}")
    try:
        sys.stdout.write("mounted\n")
        sys.stdout.flush()
        SlowDisk(given.folder, given.ms / 1e3, device).serve()
    finally:
        libc.umount2(target, 2)  # MNT_DETACH


if __name__ == "__main__":
    main()
