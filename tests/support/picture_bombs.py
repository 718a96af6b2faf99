"""Small files of every format that ask for gigabytes, and the largest that may be decoded."""

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image

SIDE = 9990  # below 100 million pixels


def _zeros_deflated(count: int) -> bytes:
    """So many zeros as zlib deflates them, one deflated block repeated."""
    block = 1 << 20
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    whole = compressor.compress(bytes(block)) + compressor.flush(zlib.Z_FULL_FLUSH)
    rest = zlib.compress(bytes(count % block), 9, -15)
    return b"\x78\xda" + whole * (count // block) + rest + struct.pack(">I", (count % 65521) << 16 | 1)


def png(side: int, channels: int = 4) -> bytes:
    """Grey and alpha, RGB, or RGBA, 8 bits each, all transparent."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", side, side, 8, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0),
        b"IDAT": _zeros_deflated(side * (1 + side * channels)),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(side: int, tile: int | None = None) -> bytes:
    """CMYK, deflated, in one strip, or of one tile of another size."""
    data = _zeros_deflated((tile or side) ** 2 * 4)
    tags = {256: side, 257: side, 259: 8, 262: 5, 277: 4, 284: 1}
    tags |= {322: tile, 323: tile, 324: 8, 325: len(data)} if tile else {273: 8, 278: side, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    bits = struct.pack("<HHII", 258, 3, 4, 8 + len(data))
    entries = entries[:24] + bits + entries[24:]
    data += struct.pack("<4H", 8, 8, 8, 8)
    data += bytes(len(data) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags) + 1) + entries + bytes(4)


def webp(side: int) -> bytes:
    """Lossless, of one colour: 28 bytes whatever its size."""
    codes = b"\x88\x88\x08"  # no transform, no cache, five codes of one symbol each
    body = b"\x2f" + struct.pack("<I", (side - 1) | (side - 1) << 14 | 1 << 28) + codes
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body


def bmp(side: int) -> bytes:
    """Run-length encoded, 8 bits."""
    row = b"\xff\1" * (side // 255) + bytes([side % 255, 1]) + b"\0\0"
    data = row * side + b"\0\1"
    start = 14 + 40 + 4 * 256
    head = struct.pack("<2sIII", b"BM", start + len(data), 0, start)
    return head + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(data), 1, 1, 256, 0) + bytes(1024) + data


def ppm(side: int) -> bytes:
    return f"P6 {side} {side} 255\n".encode() + bytes(3 * side * side)


def saved(side: int, mode: str, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, file_format, **options)
    return file.getvalue()


def strips(count: int = 20_000_000) -> bytes:
    """A TIFF of one pixel, with a table of so many strips."""
    tags = [(256, 1, 1), (257, 1, 1), (258, 1, 8), (259, 1, 1), (262, 1, 1), (273, count, 8), (279, 1, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, how_many, value) for tag, how_many, value in tags)
    return (
        b"II*\0" + struct.pack("<I", 8 + 4 * count) + b"\xee" * (4 * count) + struct.pack("<H", 7) + entries + bytes(4)
    )


def jp2(side: int) -> bytes:
    """A JPEG 2000 file whose boxes and codestream claim `side` x `side` pixels."""
    data, sides = bytearray(saved(64, "RGBA", "JPEG2000")), struct.pack(">II", side, side)
    for at in (data.index(b"ihdr") + 4, data.index(b"\xff\x51") + 6, data.index(b"\xff\x51") + 22):
        data[at : at + 8] = sides
    return bytes(data)


def avif(side: int) -> bytes:
    data, sides = bytearray(saved(64, "RGBA", "AVIF")), struct.pack(">II", side, side)
    for at in (at for at in range(len(data)) if data.startswith(b"ispe", at)):
        data[at + 8 : at + 16] = sides
    return bytes(data)


BOMBS: dict[str, Callable[[], bytes]] = {
    "bomb.webp": lambda: webp(SIDE),
    "bomb.png": lambda: png(SIDE),
    "bomb.tiff": lambda: tiff(SIDE),
    "bomb.jp2": lambda: jp2(SIDE),
    "bomb.avif": lambda: avif(SIDE),
    "bomb.bmp": lambda: bmp(SIDE),
    "bomb.ppm": lambda: ppm(7000),
    "tile.tiff": lambda: tiff(64, 12_000),
    "strips.tiff": strips,
}
LARGEST: dict[str, Callable[[], bytes]] = {
    "large.webp": lambda: webp(5400),
    "large.png": lambda: png(8150),
    "large.gif": lambda: saved(SIDE, "P", "GIF"),
}
