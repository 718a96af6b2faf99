"""Loaders of others.py whose pixels are made in native code: FFCV, tf.data, DALI, SPDL."""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.bench.contenders import CROP, SIGMA, SIZE, Images, Work


@dataclass(frozen=True, slots=True)
class Pictures:
    """The dataset that FFCV's writer reads, in processes of its own."""

    files: list[str]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, record: int) -> tuple[Image.Image]:
        return (Image.open(self.files[record]),)


def ffcv(work: Work, mode: str) -> Iterator[Images]:
    """For data that fit in memory: os_cache, random order; one compiled operation of our own."""
    from ffcv.fields import RGBImageField
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.writer import DatasetWriter

    beton = str(work.folder / "pictures.beton")
    field = RGBImageField(write_mode=mode, jpeg_quality=90)
    DatasetWriter(beton, {"image": field}, num_workers=work.threads).from_indexed_dataset(Pictures(work.files))
    area = (CROP / SIZE) ** 2  # of the crop: always the same, so that nothing is resized
    crop = RandomResizedCropRGBImageDecoder((CROP, CROP), scale=(area, area), ratio=(1.0, 1.0))
    loader = Loader(
        beton,
        batch_size=work.batch_size,
        num_workers=work.threads,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={"image": [crop, _flip_and_colour(work.colour)]},
    )
    while True:
        for (images,) in loader:
            yield images


def _flip_and_colour(colour: npt.NDArray[np.float32]) -> Any:
    """FFCV's flip and our noise as one operation, compiled by numba."""
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler
    from ffcv.pipeline.operation import Operation

    class FlipAndColour(Operation):  # type: ignore[misc]
        def declare_state_and_memory(self, previous_state: Any) -> Any:
            return replace(previous_state, jit_mode=True), AllocationQuery(previous_state.shape, previous_state.dtype)

        def generate_code(self) -> Any:
            each, of_row = Compiler.get_iterator(), np.tile(colour, CROP)

            def flip_and_colour(images: Any, target: Any) -> Any:
                for number in each(len(images)):
                    draws = np.random.randn(3) * SIGMA
                    offset = np.zeros(3 * CROP, np.int16)
                    for at in range(3 * CROP):
                        offset[at] = round(
                            draws[0] * of_row[0, at] + draws[1] * of_row[1, at] + draws[2] * of_row[2, at]
                        )
                    flip = np.random.rand() < 0.5
                    rows, made = images[number].reshape(CROP, 3 * CROP), target[number].reshape(CROP, 3 * CROP)
                    mirrored = np.empty(3 * CROP, np.uint8)
                    for at in range(CROP):
                        row = rows[at]
                        if flip:
                            for pixel in range(CROP):
                                for channel in range(3):
                                    mirrored[3 * pixel + channel] = row[3 * (CROP - 1 - pixel) + channel]
                            row = mirrored
                        for byte in range(3 * CROP):
                            made[at, byte] = min(max(np.int16(row[byte]) + offset[byte], 0), 255)
                return target[: len(images)]

            flip_and_colour.is_parallel = True  # type: ignore[attr-defined]
            return flip_and_colour

    return FlipAndColour()


def tf_data(work: Work) -> Iterator[Images]:
    """TFRecord, cached; fused decode and crop; parallel, unordered map; prefetch."""
    os.environ["CUDA_VISIBLE_DEVICES"], os.environ["TF_CPP_MIN_LOG_LEVEL"] = "", "3"
    import tensorflow as tf

    path = str(work.folder / "images.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for file in work.files:
            writer.write(Path(file).read_bytes())

    def augmented(jpeg: Any) -> Any:
        place = tf.random.uniform([2], 0, SIZE - CROP + 1, tf.int32)
        window = tf.concat([place, [CROP, CROP]], axis=0)
        image = tf.image.decode_and_crop_jpeg(jpeg, window, channels=3)
        offset = tf.round(tf.linalg.matvec(work.colour, tf.random.normal([3], stddev=SIGMA), transpose_a=True))
        image = tf.cast(tf.image.random_flip_left_right(image), tf.int16) + tf.cast(offset, tf.int16)
        return tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8)

    options = tf.data.Options()
    options.threading.private_threadpool_size = work.threads
    options.deterministic = False
    data = tf.data.TFRecordDataset(path).cache().shuffle(len(work.files)).repeat()
    data = data.map(augmented, num_parallel_calls=work.threads).batch(work.batch_size, drop_remainder=True)
    yield from data.prefetch(tf.data.AUTOTUNE).with_options(options).as_numpy_iterator()


def dali(work: Work) -> Iterator[Images]:
    """Fused decode and crop, then flip, noise and conversion in one operator."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=work.batch_size, num_threads=work.threads, device_id=None, prefetch_queue_depth=3
    )
    def pipeline() -> Any:
        jpegs, _ = fn.readers.file(files=work.files, random_shuffle=True, initial_fill=1024)
        left, top = (fn.random.uniform(range=(0.0, 1.0)) for _ in "xy")
        images = fn.decoders.image_crop(jpegs, device="cpu", crop=(CROP, CROP), crop_pos_x=left, crop_pos_y=top)
        offset = sum(fn.random.normal(stddev=SIGMA) * types.Constant(list(map(float, of))) for of in work.colour)
        return fn.crop_mirror_normalize(
            images, mirror=fn.random.coin_flip(), mean=-offset, std=[1.0], dtype=types.UINT8, output_layout="HWC"
        )

    running = pipeline()
    running.build()
    while True:
        (images,) = running.run()
        yield np.asarray(images.as_tensor())


def spdl(work: Work) -> Iterator[Images]:
    """Batches decoded by FFmpeg's threads; the rest in Python."""
    from spdl import io
    from spdl.pipeline import PipelineBuilder

    def names() -> Iterator[list[str]]:
        while True:
            shuffled = random.sample(work.files, len(work.files))
            last = len(shuffled) - work.batch_size
            yield from (shuffled[k : k + work.batch_size] for k in range(0, last + 1, work.batch_size))

    def augmented(paths: list[str]) -> Images:
        decoded = io.to_numpy(io.load_image_batch(paths, width=None, height=None))
        batch = np.empty((len(paths), CROP, CROP, 3), np.uint8)
        for image, target in zip(decoded, batch, strict=True):
            top, left = np.random.randint(0, SIZE - CROP + 1, 2)
            crop = image[top : top + CROP, left : left + CROP]
            offset = np.rint((np.random.randn(3) * SIGMA) @ work.colour).astype(np.int16)
            target[...] = np.clip((crop[:, ::-1] if np.random.rand() < 0.5 else crop) + offset, 0, 255)
        return batch

    builder = PipelineBuilder().add_source(names()).pipe(augmented, concurrency=work.threads).add_sink(2)
    pipeline = builder.build(num_threads=work.threads)
    with pipeline.auto_stop():
        yield from pipeline
