"""Places of the records in an LMDB file, found by reading its pages, read-only and without LMDB.

LMDB's `get` faults in the pages that lead to a value, then each page of the value, one after the other. A place allows
one read, which can be asked for early. Whatever is not exactly as LMDB 0.9 writes it has no place: LMDB decides.
"""

import contextlib
import os
import struct
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from loader.data_file import DataFile
from loader.records import LONGEST

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _META = 1, 2, 8  # flags of a page
_BIG = 1  # flag of a node: its value has pages of its own
_HEADER = 16  # bytes of a page before its content, the offsets of its nodes
_DEEPEST = 32  # levels, LMDB's own limit
_AT_ONCE = 256  # pages
_PAGE = np.dtype([("number", "<u8"), ("pad", "<u2"), ("flags", "<u2"), ("lower", "<u2"), ("upper", "<u2")])
_NODE = np.dtype([("low", "<u4"), ("flags", "<u2"), ("key_bytes", "<u2"), ("key", ">u8"), ("page", "<u8")])
_META_PAGE = struct.Struct("<Q2xH4x II 16x I44x 4xHH32xQ QQ")

Numbers = npt.NDArray[np.int64]


class Places:
    """Offset and length of each record's value in `file`, read from the leaf pages as `find` asks for them.

    It reads from the descriptor alone: a file cut off meanwhile gives no place, not a SIGBUS.
    """

    def __init__(self, file: DataFile, records: int, page_bytes: int, last_page: int) -> None:
        self._file, self._records, self._page_bytes, self._last_page = file, records, page_bytes, last_page
        self._offsets, self._lengths = np.zeros(records, np.int64), np.zeros(records, np.int64)  # length 0: no place
        # By leaf: its first record, the one after its last, its page (0 if a branch is damaged), and if it was read.
        self._firsts, self._ends = np.zeros(1, np.int64), np.full(1, records)
        self._pages, self._read = np.zeros(1, np.int64), np.zeros(1, np.bool_)

    @classmethod
    def of(cls, file: DataFile, records: int, snapshot: int) -> Self | None:
        """The places in the tree of transaction `snapshot`, the newest; None if the file cannot be understood."""
        with contextlib.suppress(OSError, struct.error):
            first = _META_PAGE.unpack(os.pread(file.fd, _META_PAGE.size, 0))
            page_bytes = first[4]
            second = _META_PAGE.unpack(os.pread(file.fd, _META_PAGE.size, page_bytes))
            sound = all(meta[1:5] == (_META, _MAGIC, _VERSION, page_bytes) for meta in (first, second))
            flags, depth, root, last_page, number = max(first, second, key=lambda meta: meta[-1])[5:]
            sound = sound and page_bytes in (4096, 8192, 16384, 32768) and flags == 0 and number == snapshot
            if sound and 0 < depth <= _DEEPEST and 1 < root <= last_page < 1 << 40:
                places = cls(file, records, page_bytes, last_page)
                places._find_leaves(root, depth)
                return places
        return None

    def of_record(self, record: int) -> tuple[int, int] | None:
        """Offset and length in bytes; None if `find` was not asked for it, or LMDB must be."""
        length = int(self._lengths[record])
        return (int(self._offsets[record]), length) if length else None

    def of_all(self, records: npt.NDArray[np.integer[Any]]) -> list[tuple[int, int]]:
        """Those of all `records` that have one."""
        self.find(records)
        places = zip(self._offsets[records].tolist(), self._lengths[records].tolist(), strict=True)
        return [place for place in places if place[1]]

    def find(self, records: npt.NDArray[np.integer[Any]]) -> None:
        """Read the leaf pages of these records, unless they were read before; the disk is asked for all at once."""
        of_all = np.searchsorted(self._firsts, records[self._lengths[records] == 0], "right") - 1
        leaves = np.array(sorted(set(of_all[~self._read[of_all]].tolist())), np.int64)
        if len(leaves) > 1:
            self._ask_for(self._pages[leaves])
        for begin in range(0, len(leaves), _AT_ONCE):
            self._read_leaves(leaves[begin : begin + _AT_ONCE])
        self._read[leaves] = True

    def _find_leaves(self, root: int, depth: int) -> None:
        """Walk the branch pages, level by level."""
        self._pages = np.array([root])
        for _ in range(depth - 1):
            self._ask_for(self._pages)
            chunks = np.split(np.arange(len(self._pages)), range(_AT_ONCE, len(self._pages), _AT_ONCE))
            children = [self._children(chunk) for chunk in chunks]
            self._firsts, self._pages = (np.concatenate(each) for each in zip(*children, strict=True))
            self._ends = np.append(self._firsts[1:], self._records)
        self._read = np.zeros(len(self._pages), np.bool_)

    def _children(self, branches: Numbers) -> tuple[Numbers, Numbers]:
        """First record and page of each child that has records; of a damaged branch one, page 0."""
        sound, owner, _, nodes = self._nodes(self._pages[branches], _BRANCH)
        is_first = np.diff(owner, prepend=-1) > 0
        keys = np.where(is_first, self._firsts[branches][owner], self._numbers(nodes))  # LMDB does not look at that key
        misplaced = ~is_first & (np.diff(keys, prepend=0) <= 0) & (keys < self._records)
        misplaced |= (keys >= self._ends[branches][owner]) & (keys < self._records)
        misplaced |= ~is_first & (keys < self._records) & (nodes["key_bytes"] != 8)
        sound &= np.bincount(owner, misplaced, len(branches)) == 0
        kept = sound[owner] & (keys < self._records)
        children = nodes["low"].astype(np.int64) + (nodes["flags"].astype(np.int64) << 32)
        firsts = np.append(keys[kept], self._firsts[branches][~sound])
        pages = np.append(children[kept], np.zeros((~sound).sum(), np.int64))
        in_order = np.argsort(firsts, kind="stable")
        return firsts[in_order], pages[in_order]

    def _read_leaves(self, leaves: Numbers) -> None:
        """Note the places of all records in those leaf pages that are sound throughout."""
        pages = self._pages[leaves]
        sound, owner, at, nodes = self._nodes(pages, _LEAF)
        keys, lengths = self._numbers(nodes), nodes["low"].astype(np.int64)
        is_record = keys < self._records
        misplaced = (np.diff(keys, prepend=-1) <= 0) & (np.diff(owner, prepend=-1) == 0) & is_record
        misplaced |= is_record & ((keys < self._firsts[leaves][owner]) | (keys >= self._ends[leaves][owner]))
        misplaced |= is_record & (nodes["key_bytes"] != 8)
        is_big, value_at = nodes["flags"] == _BIG, at + 8 + nodes["key_bytes"]
        first = np.minimum(nodes["page"], np.uint64(1 << 41)).astype(np.int64)  # no product below overflows
        last = first + (_HEADER - 1 + lengths) // self._page_bytes
        fits = np.where(
            is_big, (value_at + 8 <= self._page_bytes) & (first > 1), value_at + lengths <= self._page_bytes
        )
        fits &= ~is_big | (last <= self._last_page)
        misplaced |= is_record & ~(fits & (nodes["flags"] <= _BIG))
        sound &= np.bincount(owner, misplaced, len(leaves)) == 0
        start = np.where(is_big, first * self._page_bytes + _HEADER, pages[owner] * self._page_bytes + value_at)
        noted = is_record & sound[owner] & (lengths <= LONGEST)
        self._offsets[keys[noted]], self._lengths[keys[noted]] = start[noted], lengths[noted]

    def _numbers(self, nodes: npt.NDArray[np.void]) -> Numbers:
        """The keys' first 8 bytes as numbers, `records` for all from there on."""
        keys: Numbers = np.minimum(nodes["key"], np.uint64(self._records)).astype(np.int64)
        return keys

    def _nodes(self, pages: Numbers, kind: int) -> tuple[npt.NDArray[np.bool_], Numbers, Numbers, npt.NDArray[np.void]]:
        """If each page is a sound one of this kind; and all nodes: index of its page, offset in it, contents."""
        raw = np.zeros((len(pages), self._page_bytes + _NODE.itemsize), np.uint8)
        for row, page in zip(raw, pages.tolist(), strict=True):
            if not self._read_page(page, row[: self._page_bytes]):
                row[:] = 0
        head = raw[:, :_HEADER].copy().view(_PAGE)[:, 0]
        lower, upper = head["lower"].astype(np.int64), head["upper"].astype(np.int64)
        sound = (head["number"] == pages.astype(np.uint64)) & (head["flags"] == kind) & (lower % 2 == 0)
        sound &= (lower > _HEADER) & (lower <= upper) & (upper <= self._page_bytes)
        counts = np.where(sound, (lower - _HEADER) // 2, 0)
        owner = np.repeat(np.arange(len(pages)), counts)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        words = raw.view("<u2")
        at = words[owner, _HEADER // 2 + number].astype(np.int64)
        inside = (at >= upper[owner]) & (at <= self._page_bytes - 8) & (at % 2 == 0)
        at = np.where(inside, at, _HEADER)
        nodes = words[owner[:, np.newaxis], at[:, np.newaxis] // 2 + np.arange(_NODE.itemsize // 2)].view(_NODE)[:, 0]
        inside &= at + 8 + nodes["key_bytes"] <= self._page_bytes
        sound &= np.bincount(owner, ~inside, len(pages)) == 0
        return sound, owner, at, nodes

    def _read_page(self, page: int, into: npt.NDArray[np.uint8]) -> bool:
        if 1 < page <= self._last_page:
            with contextlib.suppress(OSError):
                return os.preadv(self._file.fd, [into.data], page * self._page_bytes) == len(into)
        return False

    def _ask_for(self, pages: Numbers) -> None:
        with contextlib.suppress(OSError):
            for page in pages[(pages > 1) & (pages <= self._last_page)].tolist():
                os.posix_fadvise(self._file.fd, page * self._page_bytes, self._page_bytes, os.POSIX_FADV_WILLNEED)
