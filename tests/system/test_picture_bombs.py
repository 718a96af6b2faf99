"""Bombs of every format are packed, or left out, in bounded memory."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import BadImage
from common.images import image_file, limits
from tests.support.bombs import saved_as_jpeg, with_size
from tests.support.photo_tree import photo
from tests.support.picture_bombs import BOMBS, LARGEST

PEAK_MIB = 600

# Between pytest, whose own size would be counted, and the command: tells the largest of all its processes.
MEASURED = """
import os, sys
pid = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ)
_, status, used = os.wait4(pid, 0)
print("peak", used.ru_maxrss // 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_folder_with_a_bomb_of_each_format_is_packed_in_bounded_memory(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "train" / "ape"
    folder.mkdir(parents=True)
    for name, made in {**BOMBS, **LARGEST}.items():
        (folder / name).write_bytes(made())
    (folder / "photo").write_bytes(photo(1))
    arguments = ["-c", "from loader.cli.pack_command import main; main()", "--jobs", "2"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments, tmp_path / "photos", tmp_path / "data"],
        capture_output=True,
        text=True,
        timeout=280,
    )
    shutil.rmtree(tmp_path / "photos")  # a quarter of a gigabyte, which pytest would keep
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < PEAK_MIB
    entries = map(json.loads, (tmp_path / "data" / "skipped.jsonl").read_text().splitlines())
    reasons = {entry["name"].removeprefix("train/ape/"): entry["reason"] for entry in entries}
    assert set(reasons) == set(BOMBS)
    assert all("to decode" in reason for reason in reasons.values()), reasons
    assert "whatever its header says" in reasons["strips.tiff"]


@pytest.mark.parametrize(
    ("mode", "progressive", "megapixels"),
    [
        ("RGB", False, 99),
        ("RGB", True, 76),  # 4:2:0
        ("CMYK", False, 66),
        ("CMYK", True, 30),
        ("L", True, 92),
    ],
)
def test_a_jpeg_may_be_as_large_as_its_coefficients_allow(mode: str, progressive: bool, megapixels: int) -> None:
    """Those of a baseline JPEG are not kept, so a camera's largest are taken, with a thumbnail too."""
    bytes_per_pixel = limits.RGB_BYTES + 4 * (mode == "CMYK")
    small = saved_as_jpeg(48, 60, mode, progressive=progressive) + b"\xff\xda" + bytes(2_000_000)
    for side, allowed in ((1000 * megapixels // 10, True), (1000 * (megapixels + 3) // 10, False)):
        jpeg = with_size(small, 10_000, side)
        if allowed:
            limits.check_jpeg(jpeg, 10_000, side, bytes_per_pixel)
        else:
            with pytest.raises(BadImage, match="are more than"):
                limits.check_jpeg(jpeg, 10_000, side, bytes_per_pixel)


@pytest.mark.parametrize(
    "made",
    [
        lambda: BOMBS["bomb.webp"](),
        lambda: BOMBS["bomb.png"](),
        lambda: BOMBS["bomb.jp2"](),
        lambda: BOMBS["bomb.avif"](),
    ],
)
def test_a_bomb_is_refused_before_anything_is_decoded(made: object) -> None:
    with pytest.raises(BadImage, match=r"9990x9990 pixels take [\d,]+ MiB to decode, which are more than 448"):
        image_file.decode(made())  # type: ignore[operator]
