"""Mutated JPEGs through both decoders, in processes of their own, so that a crash or a hang is seen.

Case `number` is a function of (seed, number): a record of the dataset, as stored or encoded anew (progressive, CMYK,
with restart markers), changed by one to three mutations. It goes twice through the worker's decoder, over different old
pixels, and twice through alexnet-pack's: pixels or reason must be the same, in a second process of all cases too.

    python -m tests.support.jpeg_fuzz DATA SEED FIRST COUNT FILE

FILE gets the number of the case in work.
"""

import functools
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.errors import BadImage
from common.images import image_file, jpeg
from common.spec import STORED_SIZE
from loader.dataset import Dataset
from tests.support.paths import ROOT

HANG_S = 60.0  # of the clock, for all that a case does
RECORDS = 40  # of the data set that are mutated

Random = np.random.Generator


@dataclass(slots=True)
class Findings:
    """Summary of a process's cases.

    decoded, packed       images that the worker's and alexnet-pack's decoder accepted
    slowest_ms            processor time of the slowest decoding, in `slowest_case`
    digest                of every outcome
    early_mib, late_mib   resident memory after a tenth of the cases, and after all
    """

    cases: int = 0
    decoded: int = 0
    packed: int = 0
    slowest_ms: float = 0.0
    slowest_case: int = -1
    digest: str = ""
    early_mib: float = 0.0
    late_mib: float = 0.0


class Failed(Exception):
    """A case crashed, hung, or had two outcomes."""


# Mutations


def flip_bits(data: bytearray, random: Random, _: bytes) -> None:
    for at in random.integers(0, len(data), random.integers(1, 9)):
        data[at] ^= 1 << int(random.integers(8))


def flip_bits_of_the_header(data: bytearray, random: Random, _: bytes) -> None:
    for at in random.integers(0, min(len(data), 700), random.integers(1, 5)):
        data[at] ^= 1 << int(random.integers(8))


def cut(data: bytearray, random: Random, _: bytes) -> None:
    del data[random.integers(1, len(data)) :]


def take_out(data: bytearray, random: Random, _: bytes) -> None:
    at = random.integers(0, len(data))
    del data[at : at + random.integers(1, 200)]


def repeat(data: bytearray, random: Random, _: bytes) -> None:
    at = random.integers(0, len(data))
    data[at:at] = data[at : at + random.integers(1, 2000)]


def overwrite(data: bytearray, random: Random, _: bytes) -> None:
    at, new = random.integers(0, len(data)), random.bytes(int(random.integers(1, 32)))
    data[at : at + len(new)] = new


def put_marker(data: bytearray, random: Random, _: bytes) -> None:
    at = random.integers(0, len(data))
    data[at:at] = bytes([0xFF, random.integers(0xC0, 0xFF)]) + random.bytes(int(random.integers(0, 8)))


def put_segment_of_another(data: bytearray, random: Random, other: bytes) -> None:
    """Put a table, frame or scan header of another JPEG before one of its own, or in its place."""
    ours, theirs = segments(bytes(data)), segments(other)
    if len(ours) > 1 and len(theirs) > 1:
        at, end = ours[random.integers(len(ours))]
        first, last = theirs[random.integers(len(theirs))]
        data[at : end if random.random() < 0.5 else at] = other[first:last]


def segments(data: bytes) -> list[tuple[int, int]]:
    """Begin and end of what lies between two markers outside the image data."""
    starts = [at for at in range(len(data) - 1) if data[at] == 0xFF and data[at + 1] not in (0, 0xFF)]
    return list(pairwise(starts))[:64]


MUTATIONS: tuple[Callable[[bytearray, Random, bytes], None], ...] = (
    flip_bits, flip_bits_of_the_header, cut, take_out, repeat, overwrite, put_marker, put_segment_of_another,
)  # fmt: skip


def corpus_of(data: Path) -> list[bytes]:
    with Dataset(data / "train.lmdb") as dataset:
        stored = [dataset.read(record)[1] for record in range(min(RECORDS, dataset.records))]
    forms: list[dict[str, Any]] = [{"progressive": True}, {"restart_marker_blocks": 7}, {"subsampling": 0}]
    made = [encoded_anew(packed, forms[number % 3], "RGB") for number, packed in enumerate(stored[:9])]
    made += [
        encoded_anew(packed, {"progressive": True}, mode) for packed, mode in zip(stored, ("CMYK", "L"), strict=False)
    ]
    return stored + made


def encoded_anew(packed: bytes, form: dict[str, Any], mode: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(jpeg.decode(packed)).convert(mode).save(file, "JPEG", quality=90, **form)
    return file.getvalue()


def mutated(corpus: Sequence[bytes], seed: int, number: int) -> bytes:
    random = np.random.default_rng([seed, number])
    data, other = (corpus[int(random.integers(len(corpus)))] for _ in range(2))
    changed = bytearray(data)
    for _ in range(random.integers(1, 4)):
        MUTATIONS[random.integers(len(MUTATIONS))](changed, random, other)
        if not changed:
            break
    return bytes(changed)


# One process


def outcome(decode: Callable[[], Any]) -> tuple[bytes, float]:
    """The outcome, pixels or reason, as 16 bytes; and the milliseconds of processor time."""
    started = time.thread_time()
    try:
        pixels = decode()
        told = b"pixels" + repr(pixels.shape).encode() + pixels.tobytes()
    except BadImage as error:
        told = b"reason" + str(error).encode()
    ms = 1000 * (time.thread_time() - started)
    return told[:6] + hashlib.blake2b(told, digest_size=16).digest(), ms


def as_a_record(data: bytes, old: int) -> Any:
    return jpeg.decode(data, np.full((STORED_SIZE, STORED_SIZE, 3), old, np.uint8))


def as_a_photo(data: bytes) -> Any:
    return image_file.decode(data)[0]


def fuzz(corpus: Sequence[bytes], seed: int, numbers: range, note: Callable[[int], object]) -> Findings:
    """Decode all cases. Raises Failed if one has two outcomes; `note` gets the number of each before."""
    findings, digest = Findings(), hashlib.blake2b(digest_size=16)
    for number in numbers:
        note(number)
        data = mutated(corpus, seed, number)
        ways = [functools.partial(as_a_record, data, old) for old in (0, 255)] + [
            functools.partial(as_a_photo, data)
        ] * 2
        told = [outcome(way) for way in ways]
        if told[0][0] != told[1][0] or told[2][0] != told[3][0]:
            raise Failed(f"case {number} of seed {seed} had two outcomes")
        digest.update(told[0][0] + told[2][0])
        findings.decoded += told[0][0].startswith(b"pixels")
        findings.packed += told[2][0].startswith(b"pixels")
        slowest_ms = max(ms for _, ms in told)
        if slowest_ms > findings.slowest_ms:
            findings.slowest_ms, findings.slowest_case = slowest_ms, number
        findings.cases += 1
        if findings.cases == max(1, len(numbers) // 10):
            findings.early_mib = resident_mib()
    findings.digest, findings.late_mib = digest.hexdigest(), resident_mib()
    return findings


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def main() -> None:
    data, seed, first, count = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    descriptor = os.open(sys.argv[5], os.O_CREAT | os.O_WRONLY)
    os.pwrite(descriptor, b"%12d" % first, 0)
    findings = fuzz(
        corpus_of(data), seed, range(first, first + count), lambda number: os.pwrite(descriptor, b"%12d" % number, 0)
    )
    sys.stdout.write(json.dumps(asdict(findings)))


# From outside


def in_two_processes(data: Path, seed: int, first: int, count: int, folder: Path) -> list[Findings]:
    """Run the same cases in two processes; raises Failed if one crashes, hangs, or differs."""
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda name: apart(data, seed, first, count, folder / name), ("one", "other")))
    if found[0].digest != found[1].digest:
        raise Failed(f"cases {first}..{first + count - 1} of seed {seed} came out differently in two processes")
    return found


def apart(data: Path, seed: int, first: int, count: int, working_on: Path) -> Findings:
    arguments = [str(data), str(seed), str(first), str(count), str(working_on)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.jpeg_fuzz", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        before = b""
        while True:
            try:
                told, _ = process.communicate(timeout=HANG_S)
                break
            except subprocess.TimeoutExpired:
                now = working_on.read_bytes() if working_on.exists() else b""
                if now and now == before:  # a slow machine is still importing if there is none
                    process.kill()
                    raise Failed(f"case {int(now or -1)} of seed {seed} hangs") from None
                before = now
    if process.returncode != 0:
        raise Failed(f"case {int(working_on.read_bytes())} of seed {seed} ended the process: {process.returncode}")
    return Findings(**json.loads(told))


if __name__ == "__main__":
    main()
