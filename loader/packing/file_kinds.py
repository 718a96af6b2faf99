"""Names for files that lie among pictures and are none, or none that can be read here."""

import re

_BRANDS = {
    "an AVIF picture, which the installed Pillow cannot read": (b"avif", b"avis"),
    "a HEIC picture, which is not read": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
}
_STARTS = (
    (b"\xff\x0a", "a JPEG XL picture, which is not read"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture, which is not read"),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the picture: git lfs pull fetches it"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript file, which is not read"),
    (b"8BPS", "a Photoshop file, which is not read"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file, which is not read"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x80\x02", "a pickle, which is not read"),
    (b"\x80\x03", "a pickle, which is not read"),
    (b"\x80\x04", "a pickle, which is not read"),
)
_SVG = re.compile(rb"<svg[\s>]", re.IGNORECASE)
_HTML = re.compile(rb"<!doctype html|<html[\s>]", re.IGNORECASE)
_LOOKED_AT_BYTES = 1024


def kind_of(data: bytes) -> str | None:
    """Say what a file is from how it begins, for one that no decoder knows; None if it is not known here either."""
    for start, name in _STARTS:
        if data.startswith(start):
            return name
    if data[4:8] == b"ftyp":
        return next((name for name, brands in _BRANDS.items() if data[8:12] in brands), "a video")
    head = data[:_LOOKED_AT_BYTES]
    if _HTML.search(head):
        return "an HTML page, as servers send it instead of a picture"
    if _SVG.search(head):
        return "an SVG drawing, which is not read"
    if not head.strip(b"\0"):
        return "nothing but zeros"
    return None
