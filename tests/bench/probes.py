"""Make `common/images/probes.bin`, the JPEGs that identify a decoder.

    python tests/bench/probes.py FIRST common/images/probes.bin

FIRST is the previous file: its first JPEG stays the first. The file is committed and not made anew without need:
another set identifies every decoder anew, and no earlier run could be resumed.
"""

import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgpack
import numpy as np
import numpy.typing as npt
import turbojpeg
from PIL import Image

SIZES = ((1, 1), (7, 9), (15, 17), (33, 31), (64, 48))  # width, height
CHROMA = {
    "4:4:4": turbojpeg.TJSAMP_444,
    "4:2:2": turbojpeg.TJSAMP_422,
    "4:2:0": turbojpeg.TJSAMP_420,
    "4:4:0": turbojpeg.TJSAMP_440,
    "grey": turbojpeg.TJSAMP_GRAY,
}

Rgb = npt.NDArray[np.uint8]


def picture(width: int, height: int, seed: int) -> Rgb:
    """Gradients, edges and noise: less of that in a large one, which would make the file large."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([3 * x + y, 255 - 2 * y - x, 128 + 90 * np.sin(x * y / (40 + width))], axis=-1)
    rgb[(x // (5 + width // 8) + y // 7) % 3 == 0] = random.integers(0, 256, 3)
    return np.clip(rgb + random.normal(0, 12 if width < 100 else 2, rgb.shape), 0, 255).astype(np.uint8)


def probes() -> Iterator[bytes]:
    """JPEGs of each chroma at each size; progressive, with restart markers, of other qualities; one as stored."""
    codec = turbojpeg.TurboJPEG()

    def turbo(width: int, height: int, quality: int, chroma: int, flags: int = 0) -> bytes:
        rgb = picture(width, height, width)
        made: bytes = codec.encode(
            rgb, quality=quality, pixel_format=turbojpeg.TJPF_RGB, jpeg_subsample=chroma, flags=flags
        )
        return made

    for chroma in CHROMA.values():
        yield from (turbo(width, height, 85, chroma) for width, height in SIZES)
        yield turbo(33, 31, 85, chroma, turbojpeg.TJFLAG_PROGRESSIVE)
    yield from (turbo(64, 48, quality, turbojpeg.TJSAMP_420) for quality in (10, 50, 100))
    for subsampling in (0, 1, 2):
        target = io.BytesIO()
        image = Image.fromarray(picture(49, 47, subsampling))
        image.save(target, "JPEG", quality=80, subsampling=subsampling, optimize=True, restart_marker_blocks=2)
        yield target.getvalue()
    yield turbo(256, 256, 90, turbojpeg.TJSAMP_420)


def main() -> None:
    first, target = map(Path, sys.argv[1:])
    kept = msgpack.unpackb(zlib.decompress(first.read_bytes()))[0]
    target.write_bytes(zlib.compress(msgpack.packb([kept, *probes()]), 9))


if __name__ == "__main__":
    main()
