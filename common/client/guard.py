"""Use-after-release detection for lent images, with ALEXNET_DEBUG=1.

Images are copies then. After the release, the array and numpy's views of it raise LoaderError on use; what left numpy
(a tensor, a memoryview, np.asarray) reads POISON in every byte: NaN in float32.
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
    """A copy of a batch's images, valid until `end`."""

    def __init__(self, images: npt.NDArray[Any], misuse: str) -> None:
        self._memory = np.array(images)  # a plain one, even of a guarded batch
        self._misuse, self._ended = misuse, False
        self.images = self._memory.view(GuardedImages)
        self.images._lease = self
        self.images.flags.writeable = False

    def end(self) -> None:
        self._memory.view(np.uint8).fill(POISON)
        self._ended = True

    def check(self, array: npt.NDArray[Any]) -> None:
        """Raise LoaderError if `array` reads its memory after the end."""
        if self._ended and np.may_share_memory(array, self._memory):
            raise LoaderError(self._misuse)


class GuardedImages(np.ndarray[Any, np.dtype[Any]]):
    """An array that checks its lease before each use; numpy's views inherit type and lease."""

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
    plain = np.ndarray.view(array, np.ndarray)
    if array._lease is not None:
        array._lease.check(plain)
    return plain


def _all_plain(given: Any) -> Any:
    if isinstance(given, GuardedImages):
        return _plain(given)
    return type(given)(map(_all_plain, given)) if type(given) in (list, tuple) else given
