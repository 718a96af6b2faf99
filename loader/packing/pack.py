"""Packing: sources to LMDB files, in chunks through a pool of processes, with one writer.

Items are taken in a shuffled order that depends on their number alone. The writer commits records in that order,
together with how many items are behind them and the sums for the statistics. So whatever is killed, and whenever, the
file is a prefix of the finished one, and running again appends the rest: nothing tells the result from an undisturbed
run's.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgpack
import numpy as np
import numpy.typing as npt

from common import ranges
from common.cli.progress import Progress
from common.decoder import may_agree, name_of
from common.errors import DatasetError, PackError, UsageError
from common.imagenet.devkit import ORDER_SEED, shuffled
from common.spec import STORED_SIZE
from loader.data_file import names
from loader.dataset import Writer
from loader.packing import pack_worker
from loader.packing.pack_pool import PackPool
from loader.packing.pack_worker import Packed
from loader.packing.sources import Source
from loader.records import FORMAT, digest_of, extend_chain
from loader.stats import Stats, Sums

SPLITS = ("train", "val")
_CHUNK = 32  # items: about a tenth of a second of work, and under two megabytes of answer
_COMMIT_S = 10.0  # a slow source commits by time


@dataclass(frozen=True)
class Options:
    """jobs: processes. on_bad: what a picture that cannot be decoded does. commit_records: at most so many, and ten
    seconds' worth, are done again after a kill."""

    jobs: int
    on_bad: Literal["skip", "stop"] = "skip"
    commit_records: int = 1024


@dataclass(frozen=True)
class Summary:
    """One split, finished. `packed` and `seconds` are of this run alone: 0 if it was complete already. Of the pictures
    of `empty_classes` none could be decoded; their labels stay."""

    split: str
    records: int
    classes: int
    skipped: int
    warned: int
    file_bytes: int
    digest: bytes
    packed: int
    seconds: float
    empty_classes: tuple[str, ...]


def pack(sources: Mapping[str, Source], data: Path, options: Options) -> list[Summary]:
    """Write or complete DATA/train.lmdb and, if there is such a source, DATA/val.lmdb; and DATA/skipped.jsonl.

    Raises UsageError where DATA holds something else than these sources give, PackError where packing stopped,
    DatasetError where DATA cannot be written.
    """
    for split, source in sources.items():
        if fault := ranges.class_names_fault(source.classes):
            raise UsageError(f"{split}: {fault}, which no loader could serve")
    with _only_one_pack(data) as folder:
        if "val" not in sources and (data / "val.lmdb").exists():
            raise UsageError(f"{data} holds a val.lmdb, but SOURCE has no val; delete it or name another folder")
        skipped: list[dict[str, str]] = []
        summaries: list[Summary] = []
        train: dict[str, Any] | None = None
        for split in (split for split in SPLITS if split in sources):
            if not names(data, folder):  # another alexnet-pack may be writing to the new one, whose lock is another
                raise DatasetError(f"{data} was deleted or replaced while it was packed; run the same command again")
            with Writer(data / f"{split}.lmdb") as writer:
                packing = _Packing(split, sources[split], writer, data, train)
                try:
                    summaries.append(packing.run(options))
                except BaseException:
                    with contextlib.suppress(OSError, DatasetError):  # the disk may be what failed
                        _list_skipped(data, skipped + _skipped(split, writer))
                    raise
                skipped += _skipped(split, writer)
                _list_skipped(data, skipped)
                train = train or writer.meta
        return summaries


@dataclass
class _Pending:
    """Done, not yet committed."""

    records: list[bytes] = field(default_factory=list)
    skipped: list[tuple[int, str, str]] = field(default_factory=list)
    began_s: float = field(default_factory=time.monotonic)


class _Packing:
    """One split: from where its file stands to its end."""

    def __init__(self, split: str, source: Source, writer: Writer, data: Path, train: dict[str, Any] | None) -> None:
        """`train` is the training set's meta, for the validation split: it uses its statistics."""
        self._split, self._source, self._writer = split, source, writer
        self._path, self._train = data / f"{split}.lmdb", train
        self._order = shuffled(len(source), ORDER_SEED)
        self._identity = {
            "format": FORMAT,
            "split": split,
            "items": len(source),
            "source": _fingerprint(source, train["digest"] if train else b""),
            "stored": f"{STORED_SIZE}x{STORED_SIZE} JPEG quality {pack_worker.QUALITY} 4:2:0",
            "order_seed": ORDER_SEED,
        }
        self._pending = _Pending()

    def run(self, options: Options) -> Summary:
        self._refuse_another(self._writer.meta or self._writer.progress)
        if self._writer.meta is not None:
            return self._summary(0, 0.0)
        self._restore(self._writer.progress)
        before, began_s = self._records, time.monotonic()
        self._commit()
        self._pack_the_rest(options)
        self._finish()
        return self._summary(self._records - before, time.monotonic() - began_s)

    def _refuse_another(self, found: dict[str, Any] | None) -> None:
        """UsageError where the file was begun from another source, or by a program that makes other pixels."""
        if found is None:
            return
        advice = f"delete {self._path} to pack anew, or name another folder"
        for name, ours in self._identity.items():
            if found.get(name) != ours:
                told = "another source, or this one has changed" if name in ("items", "source") else f"another {name}"
                raise UsageError(f"{self._path} was packed from {told}; {advice}")
        if self._writer.meta is None and not _same_versions(found["versions"]):
            raise UsageError(f"{self._path} was begun with {_listed(found['versions'])}; {advice}")

    def _restore(self, progress: dict[str, Any] | None) -> None:
        self._consumed: int = progress["consumed"] if progress else 0
        self._records: int = progress["records"] if progress else 0
        self._skipped: int = progress["skipped"] if progress else 0
        self._warned: int = progress["warned"] if progress else 0
        self._chain: bytes = progress["chain"] if progress else b""
        self._sums = Sums.from_bytes(progress["sums"]) if progress else Sums()

    def _pack_the_rest(self, options: Options) -> None:
        rest = self._order[self._consumed :]
        if not len(rest):
            return
        chunks = [rest[first : first + _CHUNK] for first in range(0, len(rest), _CHUNK)]
        progress = Progress(self._split, len(self._order), self._consumed)
        with PackPool(self._source, min(options.jobs, len(chunks))) as pool, progress:
            try:
                for items, packed in zip(chunks, pool.results(chunks), strict=True):
                    self._take(items, packed, options.on_bad)
                    if self._commit_is_due(options):
                        self._commit()
                    progress.count(self._consumed, f", {self._skipped:,} skipped" if self._skipped else "")
            except PackError:
                self._commit()
                raise
            self._commit()

    def _take(self, items: npt.NDArray[np.int64], packed: Packed, on_bad: str) -> None:
        for item, outcome in zip(map(int, items), packed.outcomes, strict=True):
            if isinstance(outcome, str) and on_bad == "stop":
                raise PackError(
                    f"{self._source.name(item)} cannot be decoded: {outcome}; "
                    "mend it and run again, or --on-bad skip leaves such pictures out and lists them"
                )
        for item, outcome in zip(map(int, items), packed.outcomes, strict=True):
            if isinstance(outcome, str):
                self._pending.skipped.append((item, self._source.name(item), outcome))
                self._skipped += 1
            else:
                self._pending.records.append(outcome)
                self._chain = extend_chain(self._chain, outcome)
                self._records += 1
        self._sums.merge(packed.sums)
        self._warned += packed.warned
        self._consumed += len(items)

    def _commit_is_due(self, options: Options) -> bool:
        waited_s = time.monotonic() - self._pending.began_s
        return len(self._pending.records) >= options.commit_records or waited_s >= _COMMIT_S

    def _commit(self) -> None:
        pending, self._pending = self._pending, _Pending()
        first = self._records - len(pending.records)
        self._writer.commit(first, pending.records, pending.skipped, self._progress())

    def _progress(self) -> dict[str, Any]:
        return self._identity | {
            "versions": pack_worker.versions(),
            "consumed": self._consumed,
            "records": self._records,
            "skipped": self._skipped,
            "warned": self._warned,
            "chain": self._chain,
            "sums": self._sums.to_bytes(),
        }

    def _finish(self) -> None:
        if not self._records:
            raise PackError(
                f"none of the {len(self._source):,} pictures of {self._split} can be decoded; "
                f"see {self._path.with_name('skipped.jsonl')}"
            )
        classes = tuple(self._source.classes)
        stats = Stats.from_fields(self._train["stats"]) if self._train else Stats.of(self._sums)
        final = {
            "classes": list(classes),
            "stats": stats.to_fields(),
            "digest": digest_of(self._chain, self._split, classes, stats),
        }
        counts = self._counts()
        if any(self._source.words.values()):
            final["words"] = [self._source.words.get(name, "") for name in classes]
        final["counts"] = counts.tolist()
        progress = {name: value for name, value in self._progress().items() if name not in ("sums", "consumed")}
        self._writer.finish(progress | final)

    def _counts(self) -> npt.NDArray[np.int64]:
        """Records of each class: the source's pictures less those that were skipped."""
        labels = np.asarray(self._source.labels)
        skipped = labels[self._writer.skipped_items()]
        return np.bincount(labels, minlength=len(self._source.classes)) - np.bincount(
            skipped, minlength=len(self._source.classes)
        )

    def _empty_classes(self) -> tuple[str, ...]:
        pictures = np.bincount(np.asarray(self._source.labels), minlength=len(self._source.classes))
        empty = (pictures > 0) & (self._counts() == 0)
        return tuple(self._source.classes[label] for label in np.flatnonzero(empty))

    def _summary(self, packed: int, seconds: float) -> Summary:
        meta = self._writer.meta
        assert meta is not None
        return Summary(
            self._split,
            meta["records"],
            len(meta["classes"]),
            meta["skipped"],
            meta["warned"],
            self._path.stat().st_size,
            meta["digest"],
            packed,
            seconds,
            self._empty_classes(),
        )


def _fingerprint(source: Source, train_digest: bytes) -> bytes:
    """16 bytes naming what is to be packed: names, labels and classes, and for val the training set it belongs to."""
    told = hashlib.blake2b(msgpack.packb([list(source.classes), train_digest]), digest_size=16)
    told.update(np.asarray(source.labels, "<i8").tobytes())
    for item in range(len(source)):
        told.update(source.name(item).encode() + b"\0")
    return told.digest()


def _same_versions(found: dict[str, str]) -> bool:
    """Return True if pictures are packed as they were: by the same libraries, though their identity may be shorter."""
    ours, theirs = pack_worker.versions(), found.get("decoder", "")
    same_decoder = name_of(theirs) == name_of(ours["decoder"]) and may_agree(theirs, ours["decoder"])
    return same_decoder and found | {"decoder": ours["decoder"]} == ours


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(versions.values())


def _skipped(split: str, writer: Writer) -> list[dict[str, str]]:
    return [{"split": split, "name": name, "reason": why} for name, why in writer.skipped()]


def _list_skipped(data: Path, skipped: list[dict[str, str]]) -> None:
    """One JSON object a line; replaced in one step, so that a kill leaves the old list or the new one."""
    path, fresh = data / "skipped.jsonl", data / "skipped.jsonl.new"
    try:
        fresh.write_text("".join(json.dumps(entry) + "\n" for entry in skipped))
        fresh.replace(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror}; make room and run again") from None


@contextlib.contextmanager
def _only_one_pack(data: Path) -> Iterator[int]:
    """The folder, made and locked, by its descriptor; the kernel gives the lock back however this process ends."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{data} is no folder to write to: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatasetError(f"another alexnet-pack is writing to {data}") from None
        yield descriptor
    finally:
        os.close(descriptor)
