"""Specification of a stream: the values that, with the dataset, decide every pixel."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .decoder import pixels_of
from .errors import UsageError
from .ranges import CROPS, SEEDS, SIGMAS

STORED_SIZE = CROPS.high  # height and width in pixels of a packed image

Split = Literal["train", "val"]
View = Literal["train", "full"]
Pixels = Literal["uint8", "float32"]
OnBadRecord = Literal["replace", "stop"]
DigestUse = Literal["off", "on", "verify"]  # batches carry none; carry them; are checked against them
DIGEST_USES = ("off", "on", "verify")


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream: a pure function of (dataset, this, epoch, position).

    seed     of order and augmentation, 0 to 2**63 - 1
    view     "train": random crop, flip with probability 1/2, colour noise. "full": the stored 256x256 image
    crop     height and width of a training crop in pixels, 1 to 256
    sigma    standard deviation of the colour noise, in units of each component's own; 0 turns it off
    pixels   "uint8": colour noise is rounded and saturates at 0 and 255. "float32": exact, unclipped
    on_bad_record   "replace": the next good record of the epoch's order stands in for a corrupt one, with the
             position's own crop, flip and noise. "stop": the stream ends in a LoaderFault
    shuffle  False: position p is record p

    Raises UsageError for a value of the wrong type or out of range.
    """

    split: Split = "train"
    seed: int = 0
    view: View = "train"
    crop: int = 227
    sigma: float = 0.1
    pixels: Pixels = "uint8"
    on_bad_record: OnBadRecord = "replace"
    shuffle: bool = True

    def __post_init__(self) -> None:
        checked = {
            "split": one_of("split", self.split, ("train", "val")),
            "view": one_of("view", self.view, ("train", "full")),
            "pixels": one_of("pixels", self.pixels, ("uint8", "float32")),
            "on_bad_record": one_of("on_bad_record", self.on_bad_record, ("replace", "stop")),
            "shuffle": one_of("shuffle", self.shuffle, (True, False)),
            "seed": SEEDS.of("seed", self.seed),
            "crop": CROPS.of("crop", self.crop),
            "sigma": SIGMAS.of("sigma", self.sigma),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        size = self.crop if self.view == "train" else STORED_SIZE
        return size, size, 3

    @property
    def dtype(self) -> npt.DTypeLike:
        return np.dtype(self.pixels)

    @property
    def image_bytes(self) -> int:
        height, width, channels = self.image_shape
        return height * width * channels * np.dtype(self.pixels).itemsize

    def stream_id(self, dataset_digest: bytes, request: int) -> bytes:
        """16 bytes naming a client's stream number `request`, equal on all hosts of the dataset."""
        return hashlib.blake2b(dataset_digest + f"{self._text}|{request}".encode(), digest_size=16).digest()

    def name(self, dataset_digest: bytes, decoder: str) -> str:
        """32 hexadecimal digits, equal if every pixel is: for checkpoints."""
        return hashlib.blake2b(
            dataset_digest + f"{self._text}|{pixels_of(decoder)}".encode(), digest_size=16
        ).hexdigest()

    @property
    def _text(self) -> str:
        shape = f"{self.view}|{self.image_shape[0]}|{self.sigma!r}|{self.pixels}"
        order = "" if self.shuffle else "|in record order"  # as before there was a choice, so that older runs resume
        return f"{self.split}|{self.seed}|{shape}|{self.on_bad_record}{order}"


def one_of(what: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    """The member of `allowed` that `value` equals, type included. Raises UsageError."""
    for each in allowed:
        if isinstance(value, type(each)) and value == each:
            return each
    raise UsageError(f"{what} is {value!r}; it is {' or '.join(map(repr, allowed))}")


@dataclass(frozen=True, slots=True, eq=False)
class StreamInfo:
    """A stream's dataset, as its services report it.

    classes    names, in the order of the labels
    mean_hwc   float32 256x256x3, mean image of the training set, 0..255
    digest     16 bytes naming split and contents
    decoder    see `common/decoder.py`
    """

    records: int
    classes: tuple[str, ...]
    mean_hwc: npt.NDArray[np.float32]
    digest: bytes
    decoder: str
