"""A packed split's metadata, a msgpack map: `Progress` while it is packed, `Meta` once finished."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import msgpack

from common.errors import DatasetError
from loader.records import FORMAT, digest_of
from loader.stats import Stats, Sums


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The contents and the form of a split: equal in every run that may add to one file.

    items        images in the source
    source       16 bytes, digest of the source's names, labels and classes
    """

    format: int
    split: str
    items: int
    source: bytes
    stored: str
    order_seed: int

    def to_bytes(self) -> bytes:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        packed: bytes = msgpack.packb({k: v for k, v in values.items() if v is not None}, default=_plain)
        return packed

    @classmethod
    def parsed(cls, raw: bytes | memoryview | None, path: Path) -> Self | None:
        """The metadata stored in `path`, if any. Raises DatasetError if damaged or of another format."""
        if raw is None:
            return None
        try:
            values = msgpack.unpackb(raw, use_list=False)
            if (found := values["format"]) == FORMAT:
                return cls._of(values)
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{path} is damaged: {error!r}; delete it and pack again") from None
        raise DatasetError(f"{path} has format {found}, this program reads {FORMAT}; pack again")

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> Self:
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})


@dataclass(frozen=True, kw_only=True)
class Progress(Identity):
    """The state of an unfinished split after a commit.

    consumed   items done, in the shuffled order: `records` and `skipped` together
    warned     records whose decoder warned
    named      records that have a name, from the first on; 0 in files of programs that kept none
    """

    versions: Mapping[str, str]
    consumed: int
    records: int
    skipped: int
    warned: int
    chain: bytes
    sums: Sums
    named: int = 0

    @classmethod
    def at_start(cls, identity: Identity, versions: Mapping[str, str]) -> "Progress":
        return cls(
            **vars(identity),
            versions=versions,
            consumed=0,
            records=0,
            skipped=0,
            warned=0,
            chain=b"",
            sums=Sums(),
        )

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> Self:
        return super()._of({**values, "sums": Sums.from_bytes(values["sums"])})

    def finished(
        self, classes: tuple[str, ...], stats: Stats, words: tuple[str, ...] | None, counts: tuple[int, ...]
    ) -> "Meta":
        digest = digest_of(self.chain, self.split, classes, stats)
        kept = {name: value for name, value in vars(self).items() if name not in ("consumed", "sums", "named")}
        named = self.named if self.named == self.records else 0
        return Meta(**kept, named=named, classes=classes, stats=stats, digest=digest, words=words, counts=counts)


@dataclass(frozen=True, kw_only=True)
class Meta(Identity):
    """The description of a finished split.

    stats     of the training set, also in the validation split
    words     descriptions of the classes, "" for those that have none; None if none has
    counts    records of each class; None in files packed before they were noted
    named     records that have a name: all, or 0 in files packed before names were kept
    """

    versions: Mapping[str, str]
    records: int
    skipped: int
    warned: int
    chain: bytes
    classes: tuple[str, ...]
    stats: Stats
    digest: bytes
    words: tuple[str, ...] | None = None
    counts: tuple[int, ...] | None = None
    named: int = 0

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> Self:
        return super()._of({**values, "stats": Stats.from_fields(values["stats"])})


def _plain(value: object) -> object:
    if isinstance(value, Sums):
        return value.to_bytes()
    if isinstance(value, Stats):
        return value.to_fields()
    raise TypeError(f"{value!r} has no place in the metadata")
