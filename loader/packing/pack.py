"""Packing: sources to LMDB files, in chunks through a pool of processes, with one writer.

Items are taken in a shuffled order that depends only on their number, and committed in that order with the `Progress`
behind them. So an interrupted file is a prefix of the finished one, and running again appends the rest.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from pathlib import Path
from typing import Literal

import msgpack
import numpy as np
import numpy.typing as npt

from common import ranges
from common.cli.progress import ProgressBar
from common.decoder import may_agree, name_of
from common.errors import DatasetError, PackError, UsageError
from common.imagenet.devkit import ORDER_SEED, shuffled
from common.images import stored
from common.names import bounded
from loader.data_file import names
from loader.meta import Identity, Meta, Progress
from loader.packing import pack_worker
from loader.packing.dataset_writer import Writer
from loader.packing.folder_lock import only_one_pack
from loader.packing.pack_worker import Packed
from loader.packing.sources import Source
from loader.process_pool import Died, ProcessPool
from loader.records import FORMAT, extend_chain
from loader.stats import Stats

SPLITS = ("train", "val")
_CHUNK = 32  # items: about 0.1 s of work, and under 2 MB of answer
_COMMIT_S = 10.0  # for slow sources


@dataclass(frozen=True)
class PackOptions:
    """jobs: processes. on_bad: for an image that cannot be decoded. commit_records: at most this many, or ten seconds'
    worth, are redone after a crash.
    """

    jobs: int
    on_bad: Literal["skip", "stop"] = "skip"
    commit_records: int = 1024


@dataclass(frozen=True)
class Summary:
    """One finished split; `packed` and `seconds` are of this run alone. No image of the `empty_classes` could be
    decoded.
    """

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


def pack(sources: Mapping[str, Source], data: Path, options: PackOptions) -> list[Summary]:
    """Write or complete DATA/train.lmdb and, if there is such a source, DATA/val.lmdb; and DATA/skipped.jsonl.

    Raises UsageError if DATA holds anything but a dataset of these sources, PackError if packing stopped, DatasetError
    if DATA cannot be written.
    """
    for split, source in sources.items():
        if fault := ranges.class_names_fault(source.classes):
            raise UsageError(f"{split}: {fault}, which no loader could serve")
    with only_one_pack(data) as folder:
        if "val" not in sources and (data / "val.lmdb").exists():
            raise UsageError(f"{data} holds a val.lmdb, but SOURCE has no val; delete it or name another folder")
        skipped: list[dict[str, str]] = []
        summaries: list[Summary] = []
        train: Meta | None = None
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
    records: list[bytes] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)  # of these, and of earlier records that have none yet
    skipped: list[tuple[int, str, str]] = field(default_factory=list)
    began_s: float = field(default_factory=time.monotonic)


class _Packing:
    def __init__(self, split: str, source: Source, writer: Writer, data: Path, train: Meta | None) -> None:
        """`train`: metadata of the training set, whose statistics the validation split uses."""
        self._source, self._writer, self._train = source, writer, train
        self._path = data / f"{split}.lmdb"
        self._order = shuffled(len(source), ORDER_SEED)
        self._identity = Identity(
            format=FORMAT,
            split=split,
            items=len(source),
            source=_fingerprint(source, train.digest if train else b""),
            stored=stored.FORM,
            order_seed=ORDER_SEED,
        )
        self._pending = _Pending()

    def run(self, options: PackOptions) -> Summary:
        meta, progress = self._writer.meta, self._writer.progress
        self._refuse_another(meta or progress)
        if meta is not None:
            return self._summary(meta, 0, 0.0)
        versions = stored.versions()
        self._progress = progress or Progress.at_start(self._identity, versions)
        self._progress = replace(self._progress, versions=versions)
        self._pending.names = self._names_missing()
        before, began_s = self._progress.records, time.monotonic()
        self._commit()
        self._pack_the_rest(options)
        meta = self._finish()
        return self._summary(meta, meta.records - before, time.monotonic() - began_s)

    def _names_missing(self) -> list[bytes]:
        """Names of the records that an earlier program packed without."""
        done = self._order[: self._progress.consumed]
        packed = done[~np.isin(done, [item for item, _, _ in self._writer.skipped()])]
        return [bounded(self._source.path(item)) for item in packed[self._progress.named :].tolist()]

    def _refuse_another(self, found: Meta | Progress | None) -> None:
        if found is None:
            return
        advice = f"delete {self._path} to pack anew, or name another folder"
        for name, ours in vars(self._identity).items():
            if getattr(found, name) != ours:
                other = "another source, or this one has changed" if name in ("items", "source") else f"another {name}"
                raise UsageError(f"{self._path} was packed from {other}; {advice}")
        if isinstance(found, Progress) and not _same_versions(found.versions):
            raise UsageError(f"{self._path} was begun with {', '.join(found.versions.values())}; {advice}")

    def _pack_the_rest(self, options: PackOptions) -> None:
        rest = self._order[self._progress.consumed :]
        if not len(rest):
            return
        chunks = [rest[first : first + _CHUNK] for first in range(0, len(rest), _CHUNK)]
        start = partial(pack_worker.start, self._source)
        bar = ProgressBar(self._identity.split, len(self._order), self._progress.consumed)
        with ProcessPool(start, min(options.jobs, len(chunks))) as pool, bar:
            try:
                for items, packed in zip(chunks, pool.map(chunks), strict=True):
                    self._take(items, packed, options.on_bad)
                    if self._commit_is_due(options):
                        self._commit()
                    skipped = self._progress.skipped
                    bar.count(self._progress.consumed, f", {skipped:,} skipped" if skipped else "")
            except Died as died:
                self._commit()
                where = f" while it packed {self._source.name(died.item)}" if died.item >= 0 else ""
                raise PackError(f"a worker process {died.how}{where}; {pack_worker.RESUME}") from None
            except PackError:
                self._commit()
                raise
            self._commit()

    def _take(self, items: npt.NDArray[np.int64], packed: Packed, on_bad: str) -> None:
        outcomes = list(zip(map(int, items), packed.outcomes, strict=True))
        records = [outcome for _, outcome in outcomes if isinstance(outcome, bytes)]
        skipped = [(item, self._source.name(item), reason) for item, reason in outcomes if isinstance(reason, str)]
        if skipped and on_bad == "stop":
            _, name, reason = skipped[0]
            raise PackError(
                f"{name} cannot be decoded: {reason}; "
                "mend it and run again, or --on-bad skip leaves such images out and lists them"
            )
        self._pending.records += records
        self._pending.names += [bounded(self._source.path(item)) for item, of in outcomes if isinstance(of, bytes)]
        self._pending.skipped += skipped
        progress = self._progress
        progress.sums.merge(packed.sums)
        self._progress = replace(
            progress,
            consumed=progress.consumed + len(items),
            records=progress.records + len(records),
            skipped=progress.skipped + len(skipped),
            warned=progress.warned + packed.warned,
            chain=reduce(extend_chain, records, progress.chain),
        )

    def _commit_is_due(self, options: PackOptions) -> bool:
        waited_s = time.monotonic() - self._pending.began_s
        return len(self._pending.records) >= options.commit_records or waited_s >= _COMMIT_S

    def _commit(self) -> None:
        pending, self._pending = self._pending, _Pending()
        first = self._progress.records - len(pending.records)
        self._progress = replace(self._progress, named=self._progress.named + len(pending.names))
        self._writer.commit(first, pending.records, pending.skipped, self._progress, pending.names)

    def _finish(self) -> Meta:
        source, progress = self._source, self._progress
        if not progress.records:
            raise PackError(
                f"none of the {progress.items:,} images of {progress.split} can be decoded; "
                f"see {self._path.with_name('skipped.jsonl')}"
            )
        classes = tuple(source.classes)
        stats = self._train.stats if self._train else Stats.of(progress.sums)
        words = tuple(source.words.get(name, "") for name in classes) if any(source.words.values()) else None
        meta = progress.finished(classes, stats, words, tuple(self._counts().tolist()))
        self._writer.finish(meta)
        return meta

    def _counts(self) -> npt.NDArray[np.int64]:
        labels = np.asarray(self._source.labels)
        skipped = labels[[item for item, _, _ in self._writer.skipped()]]
        classes = len(self._source.classes)
        return np.bincount(labels, minlength=classes) - np.bincount(skipped, minlength=classes)

    def _empty_classes(self) -> tuple[str, ...]:
        images = np.bincount(np.asarray(self._source.labels), minlength=len(self._source.classes))
        empty = (images > 0) & (self._counts() == 0)
        return tuple(self._source.classes[label] for label in np.flatnonzero(empty))

    def _summary(self, meta: Meta, packed: int, seconds: float) -> Summary:
        return Summary(
            split=meta.split,
            records=meta.records,
            classes=len(meta.classes),
            skipped=meta.skipped,
            warned=meta.warned,
            file_bytes=self._path.stat().st_size,
            digest=meta.digest,
            packed=packed,
            seconds=seconds,
            empty_classes=self._empty_classes(),
        )


def _fingerprint(source: Source, train_digest: bytes) -> bytes:
    """16 bytes, digest of names, labels and classes, and for val of the training set's digest."""
    digest = hashlib.blake2b(msgpack.packb([list(source.classes), train_digest]), digest_size=16)
    digest.update(np.asarray(source.labels, "<i8").tobytes())
    for item in range(len(source)):
        digest.update(source.name(item).encode() + b"\0")
    return digest.digest()


def _same_versions(found: Mapping[str, str]) -> bool:
    """Return True if the libraries make the same pixels; older files hold a shorter identity of the decoder."""
    ours, theirs = stored.versions(), found.get("decoder", "")
    same_decoder = name_of(theirs) == name_of(ours["decoder"]) and may_agree(theirs, ours["decoder"])
    return same_decoder and {**found, "decoder": ours["decoder"]} == ours


def _skipped(split: str, writer: Writer) -> list[dict[str, str]]:
    return [{"split": split, "name": name, "reason": why} for _, name, why in writer.skipped()]


def _list_skipped(data: Path, skipped: list[dict[str, str]]) -> None:
    path, fresh = data / "skipped.jsonl", data / "skipped.jsonl.new"
    try:
        fresh.write_text("".join(json.dumps(entry) + "\n" for entry in skipped))
        fresh.replace(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror}; make room and run again") from None
