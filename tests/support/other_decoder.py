"""Services with another JPEG decoder: of another name, simplejpeg's, or of other pixels."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.images.codec import SystemCodec

# The program is the real one; what it imports first makes its decoder draw pictures of odd sizes a little otherwise.
_HOOK = """
import os, sys

if set(os.environ["OTHER_PIXELS"].split()) & set(sys.orig_argv):
    from common.images import jpeg

    decode = jpeg.decode

    def otherwise(data, *args, **kwargs):
        rgb = decode(data, *args, **kwargs)
        if rgb.shape[1] % 2:
            rgb[0, 0, 0] ^= 1
        return rgb

    jpeg.decode = otherwise
"""


def system_codec() -> SystemCodec:
    """libturbojpeg's codec; skips the test if that is not installed."""
    try:
        return SystemCodec()
    except (OSError, RuntimeError):
        pytest.skip("libturbojpeg is not installed")


def under_another_name(folder: Path) -> list[str]:
    """A command prefix: this machine's library under the name of another version."""
    copy = folder / "libturbojpeg.so.9.9.9"
    shutil.copyfile(system_codec().path, copy)
    return ["env", f"LD_PRELOAD={copy}"]


def without_libturbojpeg(folder: Path) -> list[str]:
    """A command prefix: a machine without libturbojpeg."""
    (folder / "sitecustomize.py").write_text(
        "import turbojpeg\n\n\ndef missing(*_):\n    raise RuntimeError('Unable to locate turbojpeg library')\n\n\n"
        "turbojpeg.TurboJPEG.__init__ = missing\n"
    )
    return ["env", f"PYTHONPATH={folder}"]


@contextmanager
def other_pixels(monkeypatch: pytest.MonkeyPatch, folder: Path, *modules: str) -> Iterator[None]:
    """Within the block, programs started as `python -m MODULE`, of `modules`, and their children decode otherwise."""
    hooks = folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(_HOOK)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(hooks), os.environ.get("PYTHONPATH")])))
        patch.setenv("OTHER_PIXELS", " ".join(modules))
        yield
