"""Catches pixels that are used after their batch was released: for a debugging run, with ALEXNET_DEBUG=1.

A batch's images lie in a slot that is filled again once the batch is released, so a view that was kept shows the next
pictures, silently. In a debugging run a batch's images are a copy of the slot, and on release

    the array, and every view that numpy made of it, raises LoaderError when it is used;
    what left numpy (a tensor, a memoryview, np.asarray) sees every byte as POISON, which is not a number in float32.

To hold a view is no error, only to use it. Otherwise nothing is copied, checked or counted.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import LoaderError

POISON = 0xFF

_HARMLESS = {"_lease", "__class__", "shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags"}


def is_wanted() -> bool:
    return os.environ.get("ALEXNET_DEBUG", "") not in ("", "0")


class Lease:
    """A copy of a batch's images, good until it ends.

    images   GuardedImages, read only
    """

    def __init__(self, images: npt.NDArray[Any], misuse: str) -> None:
        """`misuse` is what is said of a use after the end."""
        self._memory = np.array(images)  # numpy's own kind, be it a copy of a guarded batch
        self._misuse, self._ended = misuse, False
        self.images = self._memory.view(GuardedImages)
        self.images._lease = self
        self.images.flags.writeable = False

    def end(self) -> None:
        self._memory.view(np.uint8).fill(POISON)
        self._ended = True

    def check(self, array: npt.NDArray[Any]) -> None:
        """LoaderError if it is over and `array` reads its memory; numpy's own copies come here too, and may be read."""
        if self._ended and np.may_share_memory(array, self._memory):
            raise LoaderError(self._misuse)


class GuardedImages(np.ndarray[Any, np.dtype[Any]]):
    """An array that asks its lease before each use; numpy makes its views of the same kind, with the same lease."""

    _lease: Lease | None

    def __array_finalize__(self, source: object) -> None:
        self._lease = getattr(source, "_lease", None)

    def __getattribute__(self, name: str) -> Any:
        if name not in _HARMLESS:
            _plain(self)
        return super().__getattribute__(name)

    def __getitem__(self, index: Any) -> Any:
        _plain(self)
        return super().__getitem__(index)

    def __array_ufunc__(self, ufunc: np.ufunc, method: Any, *inputs: Any, **named: Any) -> Any:
        return getattr(ufunc, method)(*_all_plain(inputs), **{name: _all_plain(each) for name, each in named.items()})

    def __array_function__(
        self, function: Callable[..., Any], _: object, given: Iterable[Any], named: Mapping[str, Any]
    ) -> Any:
        return function(*_all_plain(tuple(given)), **{name: _all_plain(each) for name, each in named.items()})


def _plain(array: GuardedImages) -> npt.NDArray[Any]:
    """The array as numpy's own kind, if it may be used still."""
    plain = np.ndarray.view(array, np.ndarray)
    if array._lease is not None:
        array._lease.check(plain)
    return plain


def _all_plain(given: Any) -> Any:
    """Arguments as they were, guarded arrays among them as numpy's own kind."""
    if isinstance(given, GuardedImages):
        return _plain(given)
    return type(given)(map(_all_plain, given)) if type(given) in (list, tuple) else given
