"""The codec bundled in simplejpeg does what the system's libturbojpeg does, to the bit."""

import io
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from common.decoder import pixels_of
from common.errors import BadImage
from common.images import codec, jpeg
from tests.support.jpeg_fuzz import mutated
from tests.support.other_decoder import system_codec

SIZES = ((1, 1), (7, 9), (17, 33), (256, 256), (233, 311))  # height, width
FORMS: tuple[dict[str, object], ...] = (
    {},
    {"progressive": True},
    {"restart_marker_blocks": 3},
    {"subsampling": 0},
    {"subsampling": 1, "progressive": True},
    {"quality": 30, "optimize": True},
)


@pytest.fixture(scope="module")
def system() -> codec.SystemCodec:
    return system_codec()


@pytest.fixture(scope="module")
def bundled() -> codec.BundledCodec:
    return codec.BundledCodec()


def images() -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """Blurred noise, of each size."""
    for height, width in SIZES:
        noise = np.random.default_rng(height).integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), np.uint8)
        yield np.ascontiguousarray(np.asarray(Image.fromarray(noise).resize((width, height))))


def corpus() -> list[bytes]:
    """JPEGs of each size, in gray, colour and inks, baseline and progressive, with every sampling of chroma."""
    jpegs = []
    for image, mode, form in itertools.product(images(), ("RGB", "L", "CMYK"), FORMS):
        file = io.BytesIO()
        Image.fromarray(image).convert(mode).save(file, "JPEG", **{"quality": 85, **form})
        jpegs.append(file.getvalue())
    return jpegs


def outcome(library: codec.Codec, data: bytes) -> bytes | None:
    """The pixels; None if it is refused."""
    try:
        height, width = library.size(data)
        if height * width > 1_000_000:  # a mutated header
            return None
        out = np.full((height, width, 3), 7, np.uint8)
        library.decode(data, out)
    except BadImage:
        return None
    return out.tobytes()


def test_sound_jpegs_decode_to_the_same_pixels_and_cmyk_is_left_to_pillow(
    system: codec.Codec, bundled: codec.Codec
) -> None:
    outcomes = [(outcome(system, data), outcome(bundled, data)) for data in corpus()]
    assert [number for number, (ours, theirs) in enumerate(outcomes) if ours != theirs] == []
    assert sum(ours is not None for ours, _ in outcomes) == len(outcomes) * 2 // 3


def test_damaged_jpegs_are_refused_by_both_or_decode_to_the_same_pixels(
    system: codec.Codec, bundled: codec.Codec
) -> None:
    sound = corpus()
    outcomes = []
    for number in range(1500):
        data = mutated(sound, 0, number)
        outcomes.append((number, outcome(system, data), outcome(bundled, data)))
    assert [number for number, ours, theirs in outcomes if ours != theirs] == []
    assert 100 < sum(ours is None for _, ours, _ in outcomes) < 1400


@pytest.mark.parametrize("data", [b"no jpeg", b"\x89PNG\r\n", b"\xff\x00"])
def test_a_file_that_is_no_jpeg_has_the_same_fault_with_both(
    system: codec.Codec, bundled: codec.Codec, data: bytes
) -> None:
    faults = []
    for library in (system, bundled):
        with pytest.raises(BadImage) as caught:
            library.size(data)
        faults.append(str(caught.value))
    assert faults[0] == faults[1]


def test_images_encode_to_the_same_bytes(system: codec.Codec, bundled: codec.Codec) -> None:
    for image, quality in itertools.product(images(), (1, 50, 90, 100)):
        assert system.encode(image, quality) == bundled.encode(image, quality)


def test_both_have_one_identity_under_two_names(
    system: codec.Codec, bundled: codec.Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    identities = []
    for library in (system, bundled):
        monkeypatch.setattr(jpeg, "codec", lambda library=library: library)
        identities.append(jpeg.decoder.__wrapped__())
    one, other = identities
    assert pixels_of(one) == pixels_of(other)
    assert one != other
    assert other.startswith("simplejpeg-")
