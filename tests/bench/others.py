"""Other loaders of JPEGs, measured if they are installed: tf.data, DALI, SPDL, FFCV.

Each reads the same pictures, from files or its own format, with as many threads as this loader has workers, crops at a
random place, flips half of them, adds one random colour offset a picture, and delivers uint8 n x 227 x 227 x 3 arrays
to the process that runs it, one of its own, so that no library's threads or memory disturb another's.

tf.data, DALI and SPDL (which wants FFmpeg's libraries) have been run as they stand here: tensorflow 2.21, DALI 2.4,
SPDL 0.8. FFCV is written to its
documentation and has not been run; it crops at the centre and adds no colour, which is less work.
"""

import contextlib
import importlib.util
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.bench.contenders import CROP, SIGMA, SIZE, counted
from tests.bench.photos import as_files

Floats = npt.NDArray[np.float32]


def tf_data(files: list[str], colour: Floats, threads: int, batch_size: int) -> Iterator[int]:
    import tensorflow as tf

    def augmented(path: Any) -> Any:
        place = tf.random.uniform([2], 0, SIZE - CROP + 1, tf.int32)
        window = tf.concat([place, [CROP, CROP]], axis=0)
        image = tf.image.decode_and_crop_jpeg(tf.io.read_file(path), window, channels=3)
        offset = tf.round(tf.linalg.matvec(colour, tf.random.normal([3], stddev=SIGMA), transpose_a=True))
        image = tf.cast(tf.image.random_flip_left_right(image), tf.int16) + tf.cast(offset, tf.int16)
        return tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8)

    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    data = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).repeat()
    data = data.map(augmented, num_parallel_calls=threads, deterministic=False).batch(batch_size).prefetch(2)
    for images in data.with_options(options).as_numpy_iterator():
        yield len(images)


def dali(files: list[str], colour: Floats, threads: int, batch_size: int) -> Iterator[int]:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=batch_size, num_threads=threads, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> Any:
        jpegs, _ = fn.readers.file(files=files, random_shuffle=True)
        left, top = (fn.random.uniform(range=(0.0, 1.0)) for _ in "xy")
        images = fn.decoders.image_crop(jpegs, device="cpu", crop=(CROP, CROP), crop_pos_x=left, crop_pos_y=top)
        images = fn.flip(images, horizontal=fn.random.coin_flip())
        offset = sum(fn.random.normal(stddev=SIGMA) * types.Constant(component, device="cpu") for component in colour)
        return fn.cast(images + offset, dtype=types.UINT8)  # saturates

    running = pipeline()
    running.build()
    while True:
        (images,) = running.run()
        yield len(np.asarray(images.as_tensor()))


def spdl(files: list[str], colour: Floats, threads: int, batch_size: int) -> Iterator[int]:
    from spdl import io
    from spdl.pipeline import PipelineBuilder

    def names() -> Iterator[list[str]]:
        while True:
            shuffled = random.sample(files, len(files))
            yield from (shuffled[k : k + batch_size] for k in range(0, len(files), batch_size))

    def augmented(paths: list[str]) -> npt.NDArray[np.uint8]:
        decoded = io.to_numpy(io.load_image_batch(paths, width=None, height=None))
        batch = np.empty((len(paths), CROP, CROP, 3), np.uint8)
        for image, target in zip(decoded, batch, strict=True):
            top, left = np.random.randint(0, SIZE - CROP + 1, 2)
            crop = image[top : top + CROP, left : left + CROP]
            offset = np.rint((np.random.randn(3) * SIGMA) @ colour).astype(np.int16)
            target[...] = np.clip((crop[:, ::-1] if np.random.rand() < 0.5 else crop) + offset, 0, 255)
        return batch

    builder = PipelineBuilder().add_source(names()).pipe(augmented, concurrency=threads).add_sink(2)
    pipeline = builder.build(num_threads=threads)
    with pipeline.auto_stop():
        for images in pipeline:
            yield len(images)


def ffcv(files: list[str], colour: Floats, threads: int, batch_size: int) -> Iterator[int]:
    from ffcv.fields import RGBImageField
    from ffcv.fields.decoders import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip
    from ffcv.writer import DatasetWriter
    from PIL import Image

    class Pictures:
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, record: int) -> tuple[Any]:
            return (Image.open(files[record]),)

    beton = str(Path(files[0]).parent / "pictures.beton")
    DatasetWriter(beton, {"image": RGBImageField(write_mode="jpg", jpeg_quality=90)}).from_indexed_dataset(Pictures())
    steps = [CenterCropRGBImageDecoder((CROP, CROP), CROP / SIZE), RandomHorizontalFlip()]
    loader = Loader(
        beton, batch_size=batch_size, num_workers=threads, order=OrderOption.RANDOM, pipelines={"image": steps}
    )
    while True:
        for (images,) in loader:
            yield len(images)


Batches = Callable[[list[str], Floats, int, int], Iterator[int]]
OTHERS: dict[str, tuple[str, Batches]] = {  # with the module that tells whether it is installed
    "tf.data": ("tensorflow", tf_data),
    "DALI": ("nvidia.dali", dali),
    "SPDL": ("spdl.io", spdl),
    "FFCV": ("ffcv", ffcv),
}


def is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(OTHERS[name][0]) is not None
    except ModuleNotFoundError:  # of the parent package
        return False


class Other:
    """One of OTHERS in a process of its own; it ends with this one."""

    def __init__(self, name: str, data: Path, threads: int, batch_size: int) -> None:
        files, colour = as_files(data)
        context = multiprocessing.get_context("spawn")
        self._end, theirs = context.Pipe()
        given = theirs, name, files, colour.astype(np.float32), threads, batch_size
        context.Process(target=_serve, args=given, daemon=True).start()
        theirs.close()

    def works(self) -> bool:
        """Return True if it gives batches; else its own process says why."""
        try:
            self.run(0.0)
        except EOFError:
            return False
        return True

    def run(self, seconds: float) -> float:
        """Images a second."""
        self._end.send(seconds)
        rate: float = self._end.recv()
        return rate


def _serve(end: Connection, name: str, files: list[str], colour: Floats, threads: int, batch_size: int) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sizes = OTHERS[name][1](files, colour, threads, batch_size)
    with contextlib.suppress(EOFError):  # this process's end is the other's
        while True:
            end.send(counted(sizes, end.recv())[1])
