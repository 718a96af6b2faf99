"""The ILSVRC2012 archives in small: same names, nesting and devkit."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.support.photo_tree import photo

NO_PICTURE = b"no picture"


def make_archives(
    folder: Path, ids: Mapping[int, str], truth: Sequence[int], undecodable: Sequence[int] = (), first_photo: int = 100
) -> Path:
    """Classes of these names by ILSVRC2012_ID; validation image n is `photo(first_photo + n - 1)`, of the class with
    the n-th id of `truth`, or cannot be decoded.
    """
    folder.mkdir()
    classes = {
        f"{wnid}.tar": tar_of({f"{wnid}_{n}.JPEG": photo(10 * label + n) for n in range(3 + label)})
        for label, wnid in enumerate(sorted(ids.values()))
    }
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar_of(classes))
    numbers = range(len(truth), 0, -1)
    val = {
        f"ILSVRC2012_val_{n:08}.JPEG": NO_PICTURE if n in undecodable else photo(first_photo + n - 1) for n in numbers
    }
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar_of(val))
    (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(tar_of(_devkit(ids, truth), "w:gz"))
    return folder


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=tarfile.GNU_FORMAT) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as file:
        file.extraction_filter = getattr(tarfile, "data_filter", None)  # 3.11.4 and newer
        file.extractall(folder)


def _devkit(ids: Mapping[int, str], truth: Sequence[int]) -> dict[str, bytes]:
    meta = io.BytesIO()
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    nodes = {**ids, 1001: "n00001740"}  # the last is no class: an inner node of the tree
    rows = [(np.uint16(number), wnid, "a thing", np.uint16(number > 1000)) for number, wnid in nodes.items()]
    savemat(meta, {"synsets": np.array(rows, dtype=kind)[:, None]})
    return {
        "ILSVRC2012_devkit_t12/readme.txt": b"read me",
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{n}\n" for n in truth).encode(),
        "ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
    }
