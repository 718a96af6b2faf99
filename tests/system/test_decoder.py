"""A decoder is known by the pixels that it makes, not by its name: between hosts, in checkpoints, in workers."""

import hashlib
import re
import zlib
from pathlib import Path

import msgpack
import pytest

from common.client.client import LoaderClient
from common.decoder import may_agree, name_of, named, pixels_of
from common.errors import LoaderFault, LoaderRefused
from common.images import jpeg
from tests.support.other_decoder import other_pixels, under_another_name, without_libturbojpeg
from tests.support.processes import LoaderProcess
from tests.support.reader import SPEC, fingerprint, read

PROBES = Path(jpeg.__file__).with_name("probes.bin")
NEW = named("libturbojpeg.so.0.3.2", "4e34d6b4" + "a" * 24)


def test_probes_are_of_every_kind_and_never_change() -> None:
    """Another set would be another identity of every decoder, and no run could resume."""
    probes = msgpack.unpackb(zlib.decompress(PROBES.read_bytes()))
    assert hashlib.blake2b(b"".join(probes), digest_size=8).hexdigest() == "edfa848ef81a2f22"
    frames = [re.search(rb"\xff[\xc0\xc2]\0.\x08(..)(..)(.)(?:.(.).)", probe, re.DOTALL) for probe in probes]
    found = {
        (frame[0][1] == 0xC2, int.from_bytes(frame[1], "big"), frame[3], frame[4])
        for frame in frames
        if frame is not None
    }
    assert {progressive for progressive, *_ in found} == {True, False}
    assert {height for _, height, *_ in found} >= {1, 9, 17, 31, 48, 256}
    assert {sampling for *_, channels, sampling in found if channels == b"\x03"} >= {b"\x11", b"\x21", b"\x22", b"\x12"}
    assert {channels for *_, channels, _ in found} == {b"\x01", b"\x03"}
    assert sum(b"\xff\xdd\0\x04" in probe for probe in probes) == 3  # restart intervals


def test_an_identity_is_a_name_and_digits_and_digits_decide() -> None:
    assert (name_of(NEW), pixels_of(NEW)) == ("libturbojpeg.so.0.3.2", "4e34d6b4" + "a" * 24)
    other_name, other_digits = named("libjpeg of elsewhere", pixels_of(NEW)), named(name_of(NEW), "4e34d6b4" + "b" * 24)
    assert pixels_of(other_name) == pixels_of(NEW) != pixels_of(other_digits)
    assert may_agree(NEW, other_name)
    assert not may_agree(NEW, other_digits)


@pytest.mark.parametrize(
    ("old", "agrees"),
    [
        ("", True),
        ("libturbojpeg.so.0.2.0", True),
        ("libturbojpeg.so.0.2.0 pixels 4e34d6b4", True),
        ("x pixels 4e34d6b5", False),
    ],
)
def test_an_older_identity_is_compared_as_far_as_it_tells(old: str, agrees: bool) -> None:
    assert may_agree(old, NEW) is may_agree(NEW, old) is agrees


def test_this_decoder_is_known_by_its_library_and_its_pixels() -> None:
    assert re.fullmatch(r"\S*jpeg\S* pixels [0-9a-f]{32}", jpeg.decoder())
    first = msgpack.unpackb(zlib.decompress(PROBES.read_bytes()))[0]
    assert f" pixels {hashlib.blake2b(jpeg.decode(first).tobytes(), digest_size=4).hexdigest()}" in jpeg.decoder()


def test_hosts_whose_decoders_have_other_names_and_the_same_pixels_serve_together(
    packed: Path, tmp_path: Path, undisturbed: list[str]
) -> None:
    prefix = under_another_name(tmp_path)
    with LoaderProcess(packed, tmp_path) as one, LoaderProcess(packed, tmp_path, prefix=prefix) as other:
        with LoaderClient([other.endpoint, one.endpoint]) as loader:
            stream = loader.stream(SPEC, 16)
            while stream.loaders.hosts < 2:
                assert fingerprint(stream.batches(range(2))) == undisturbed
        with LoaderClient(other.endpoint) as loader:
            assert name_of(loader.stream(SPEC, 16).info.decoder) == "libturbojpeg.so.9.9.9"


def test_a_host_without_libturbojpeg_serves_the_same_pixels_and_its_log_names_the_codec(
    packed: Path, tmp_path: Path, undisturbed: list[str]
) -> None:
    with LoaderProcess(packed, tmp_path, prefix=without_libturbojpeg(tmp_path)) as service:
        assert read(service.endpoint) == undisturbed
    assert "JPEG codec: simplejpeg-" in service.log.read_text()


def test_hosts_whose_decoders_make_other_pixels_are_refused_and_both_are_named(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with other_pixels(monkeypatch, tmp_path, "loader.cli.serve_command", "loader.workers.worker"):
        different = LoaderProcess(packed, tmp_path)
    with different as other, LoaderProcess(packed, tmp_path) as one:
        with LoaderClient([one.endpoint, other.endpoint]) as loader:
            said = r"its decoder, \S+ pixels (\w+), makes other pixels than \S+ pixels (\w+)"
            with pytest.raises(LoaderRefused, match=said) as refused:
                list(loader.stream(SPEC, 16).batches(range(10**6)))
    both = re.search(said, str(refused.value))
    assert both is not None
    assert pixels_of(jpeg.decoder()) in both.groups()


def test_a_worker_whose_decoder_makes_other_pixels_than_announced_delivers_none(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with other_pixels(monkeypatch, tmp_path, "loader.workers.worker"), LoaderProcess(packed, tmp_path) as service:
        with pytest.raises(LoaderFault, match=r"has another JPEG decoder .* makes other pixels; restart the loader"):
            read(service.endpoint)
