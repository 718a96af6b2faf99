"""Reader of MATLAB version 5 files, as far as the ILSVRC2012 devkit needs: fields of one array of structures.

A file is a 128-byte header and elements: a tag of type and length, then the data, padded to eight bytes.
"""

import struct
import zlib
from collections.abc import Iterator

MAX_BYTES = 1 << 26  # of a variable, decompressed; the devkit's takes one megabyte

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXTS = {1: "ascii", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_WIDE = (4, 17, 18)  # texts with a byte order
_STRUCTURE, _CHARACTERS, _FIRST_NUMERIC, _LAST_NUMERIC = 2, 4, 6, 15  # classes of arrays

Value = int | str | None


def structures(data: bytes, variable: str, fields: tuple[str, ...]) -> list[tuple[Value, ...]]:
    """The values of `fields` in each structure of the array `variable`: integers and texts, None for all else.

    Raises ValueError if the file is not of version 5, is damaged, or lacks the array or a field.
    """
    if data.startswith(b"MATLAB 7.3"):
        raise ValueError("it is of MATLAB version 7.3, which is HDF5; the devkit's own is of version 5")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:_HEADER_BYTES])
    if order is None:
        raise ValueError("it is not a MATLAB version 5 file")
    for kind, body in _elements(data[_HEADER_BYTES:], order):
        matrix = _inflated(body, order) if kind == _COMPRESSED else body if kind == _MATRIX else b""
        parts = _elements(matrix, order)
        array_class, count, name = _head(parts, order)
        if name == variable:
            if array_class != _STRUCTURE:
                raise ValueError(f"{variable} is not an array of structures")
            return _structures(parts, order, count, fields)
    raise ValueError(f"it lacks {variable}")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    view, at = memoryview(data), 0
    while at < len(data):
        kind, size, start = *struct.unpack_from(f"{order}II", _exactly(view, at, 8)), at + 8
        if kind >> 16:  # a small element: tag in one word, contents in the next
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        yield kind, bytes(_exactly(view, start, size))
        end = start + size
        at = at + 8 if start == at + 4 else end if kind == _COMPRESSED else end + -end % 8


def _exactly(view: memoryview, start: int, size: int) -> memoryview:
    if start + size > len(view):
        raise ValueError("it is truncated or damaged")
    return view[start : start + size]


def _inflated(data: bytes, order: str) -> bytes:
    inflater = zlib.decompressobj()
    try:
        whole = inflater.decompress(data, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"it is damaged: {error}") from None
    if inflater.unconsumed_tail:
        raise ValueError(f"a variable has more than {MAX_BYTES:,} bytes")
    kind, body = next(_elements(whole, order), (0, b""))
    return body if kind == _MATRIX else b""


def _head(parts: Iterator[tuple[int, bytes]], order: str) -> tuple[int, int, str]:
    """Class, number of elements and name of a matrix; zeros if it is empty."""
    (_, flags), (_, shape), (_, name) = (next(parts, (0, b"")) for _ in range(3))
    count = 1
    for side in struct.unpack(f"{order}{len(shape) // 4}i", shape[: len(shape) // 4 * 4]):
        count *= side
    return flags[0 if order == "<" else 3] if len(flags) == 8 else 0, count, name.decode("latin-1")


def _structures(
    parts: Iterator[tuple[int, bytes]], order: str, count: int, fields: tuple[str, ...]
) -> list[tuple[Value, ...]]:
    (_, length), (_, packed) = next(parts, (0, b"")), next(parts, (0, b""))
    width = struct.unpack(f"{order}i", length)[0] if len(length) == 4 else 0
    if not 0 < width <= len(packed):
        raise ValueError("its structures have no fields")
    starts = range(0, len(packed) // width * width, width)
    names = [packed[start : start + width].split(b"\0")[0].decode("latin-1") for start in starts]
    if missing := sorted(set(fields) - set(names)):
        raise ValueError(f"its structures have no {', '.join(missing)}")
    rows = []
    for _ in range(count):
        row = {name: _value(next(parts, (0, b"")), order, name in fields) for name in names}
        rows.append(tuple(row[name] for name in fields))
    return rows


def _value(element: tuple[int, bytes], order: str, wanted: bool) -> Value:
    kind, matrix = element
    if kind != _MATRIX:
        raise ValueError("it is truncated or damaged")
    if not wanted:
        return None
    parts = _elements(matrix, order)
    array_class, _, _ = _head(parts, order)
    kind, data = next(parts, (0, b""))
    if array_class == _CHARACTERS and kind in _TEXTS:
        encoding = _TEXTS[kind]
        return data.decode(f"{encoding}-{'le' if order == '<' else 'be'}" if kind in _WIDE else encoding)
    if _FIRST_NUMERIC <= array_class <= _LAST_NUMERIC and kind in _NUMBERS:
        code = f"{order}{_NUMBERS[kind]}"
        number = struct.unpack(code, data)[0] if len(data) == struct.calcsize(code) else 0.5
        return int(number) if abs(number) < 2**53 and number == int(number) else None
    return None
