"""Decoded images kept in a container in which another program then needs memory: as root, with memory cgroups.

    python tests/bench/pressure.py [--data PHOTOS] [--mib 2048] [--decoded-mib 1200] [--other-mib 1400]

Service and program may have --mib together, page cache included. Once --decoded-mib of images are kept, the program
takes --other-mib, --mib-s a second, while a client reads on. Tells what is kept before and after, and what the kernel
killed; the client's pixels are compared with those of a service that keeps nothing.
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, os.environ.get("COLD_CHECKOUT") or str(Path(__file__).resolve().parents[2]))
os.environ["PYTHONPATH"] = sys.path[0]

from common.client.client import LoaderClient
from common.spec import StreamSpec
from tests.bench import photos
from tests.bench.cold import bounded
from tests.support.kept_memory import kept_bytes
from tests.support.processes import LoaderProcess

BATCH, IMAGE_MIB = 128, 3 / 16
_TAKE = """
import sys, time
most, mib_s = map(int, sys.argv[1:])
taken = []
for _ in range(0, most, 16):
    taken.append(b"x" * (16 << 20))
    time.sleep(16 / mib_s)
print("taken", flush=True)
time.sleep(1000)
"""


def epoch_of(client: LoaderClient) -> str:
    """Digest of an epoch's pixels."""
    digest = hashlib.blake2b()
    for batch in client.stream(StreamSpec(seed=1), BATCH).batches([0], lend=True):
        digest.update(batch.images.data)
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="photos, as alexnet-pack takes them; made ones if not given")
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--decoded-mib", type=int, default=1200)
    parser.add_argument("--other-mib", type=int, default=1400)
    parser.add_argument("--mib-s", type=int, default=400)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, bounded(given.mib) as prefix:
        folder = Path(name)
        data = photos.packed_records(given.data, folder, int(given.decoded_mib / IMAGE_MIB))
        with LoaderProcess(data, folder, 2, "tcp://127.0.0.1:*", "--decoded-gib", "0") as service:
            with LoaderClient(service.endpoint) as client:
                right = epoch_of(client)
        options = ("--decoded-gib", str(given.decoded_mib / 1024))
        service = LoaderProcess(data, folder, 2, "tcp://127.0.0.1:*", *options, prefix=prefix)
        with service, LoaderClient(service.endpoint) as client:
            same = [epoch_of(client) == right]
            kept = [kept_bytes(service.pid) / 2**20]
            other = subprocess.Popen(
                [*prefix, sys.executable, "-c", _TAKE, str(given.other_mib), str(given.mib_s)], stdout=subprocess.PIPE
            )
            assert other.stdout is not None
            os.set_blocking(other.stdout.fileno(), False)
            while other.poll() is None and service.process.poll() is None and not other.stdout.read():
                same.append(epoch_of(client) == right)
            killed = [what for what, process in (("service", service.process), ("program", other)) if process.poll()]
            if not killed:
                time.sleep(1)
                kept.append(kept_bytes(service.pid) / 2**20)
                same.append(epoch_of(client) == right)
            other.kill()
            other.communicate()
            sys.stdout.write(
                f"kept {', then '.join(f'{mib:.0f} MiB' for mib in kept)}; killed: {', '.join(killed) or 'nothing'};"
                f" pixels of {len(same)} epochs {'equal' if all(same) else 'DIFFER'}\n"
            )
            if killed:
                service.process.send_signal(signal.SIGKILL)


if __name__ == "__main__":
    main()
