"""Other loaders of JPEGs, measured if they are installed.

Each reads the same images, in the format that it recommends, with as many threads or processes as this loader has
workers, crops at a random place, flips half of them, adds one random colour offset an image, and delivers uint8
n x 227 x 227 x 3 arrays to the process that runs it, one of its own. `native_loaders.py` and `python_loaders.py` hold
them. To install what there is, beside this project in an environment of its own:

    pip install tensorflow-cpu nvidia-dali-cuda120 spdl spdl-io grain array-record webdataset mosaicml-streaming ffcv

SPDL wants FFmpeg's libraries, Debian's libavdevice59 and libavfilter8; FFCV is compiled, with pkg-config, OpenCV's and
libturbojpeg's headers.
"""

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from tests.bench import native_loaders, python_loaders
from tests.bench.contenders import CROP, Images, Work
from tests.bench.measured_process import MeasuredProcess
from tests.bench.photos import as_files
from tests.bench.services import BATCH, Setting

OTHERS: dict[str, tuple[str, Callable[[Work], Iterator[Images]]]] = {  # with the module that tells if it is installed
    "FFCV-raw": ("ffcv", partial(native_loaders.ffcv, mode="raw")),
    "FFCV-jpeg": ("ffcv", partial(native_loaders.ffcv, mode="jpg")),
    "tf.data": ("tensorflow", native_loaders.tf_data),
    "DALI": ("nvidia.dali", native_loaders.dali),
    "SPDL": ("spdl.io", native_loaders.spdl),
    "Grain": ("grain", python_loaders.grain),
    "webdataset": ("webdataset", python_loaders.webdataset),
    "streaming": ("streaming", python_loaders.streaming),
}


def is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(OTHERS[name][0]) is not None
    except ModuleNotFoundError:  # of the parent package
        return False


def started(name: str, setting: Setting) -> MeasuredProcess:
    """One of OTHERS, in a process of its own."""
    files, colour = as_files(setting.data)
    folder = setting.folder / name
    folder.mkdir()
    work = Work(files, colour.astype(np.float32), setting.workers, BATCH, folder)
    return setting.stack.enter_context(MeasuredProcess(partial(_sizes, name, work)))


def _sizes(name: str, work: Work) -> Iterator[int]:
    for number, images in enumerate(OTHERS[name][1](work)):
        if number == 0:
            _check(images, work)
        yield len(images)


def _check(images: Images, work: Work) -> None:
    """Raise ValueError unless these are whole images of the right form that differ from each other."""
    if images.shape != (work.batch_size, CROP, CROP, 3) or images.dtype != np.uint8:
        raise ValueError(f"{images.dtype} {images.shape} is not a batch")
    if not all(image.std() > 1 for image in images) or len({image.tobytes() for image in images}) < len(images):
        raise ValueError("an image is empty, or there twice")
