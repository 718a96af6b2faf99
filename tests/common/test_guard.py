"""A debugging run: pixels used after their batch was released are noticed, whatever reads them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from common.client.batch import Batch
from common.client.client import LoaderClient
from common.client.guard import POISON
from common.client.stream_sessions import Transport
from common.errors import LoaderError
from common.spec import Pixels, StreamSpec
from tests.support.processes import LoaderProcess

Array = npt.NDArray[Any]

USES: dict[str, Callable[[Array], object]] = {
    "an item": lambda images: images[0],
    "a slice": lambda images: images[:, 2:4],
    "a mask": lambda images: images[images > 3],
    "iteration": lambda images: list(images),
    "an operator": lambda images: images + 1,
    "an operator from the right": lambda images: 255 - images,
    "in place into another": lambda images: np.zeros(images.shape).__iadd__(images),
    "a comparison": lambda images: images == images,
    "a function": lambda images: np.add(images, 1),
    "a reduction": lambda images: images.sum(),
    "a function of a list": lambda images: np.concatenate([images, images]),
    "a function by keyword": lambda images: np.mean(a=images),
    "a cast": lambda images: images.astype(np.float32),
    "a copy": lambda images: images.copy(),
    "bytes": lambda images: images.tobytes(),
    "another shape": lambda images: images.reshape(-1),
    "the address": lambda images: images.ctypes.data,
}


def through_torch(images: Array) -> Array:
    seen: Array = torch.from_numpy(images).numpy()
    return seen


def batch_of(images: Array) -> Batch:
    numbers = np.arange(len(images))
    return Batch(3, 1280, images, numbers, numbers)


@pytest.fixture
def images() -> Array:
    return np.random.default_rng(0).integers(0, 200, (4, 8, 8, 3), np.uint8)


@pytest.fixture
def debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_DEBUG", "1")


@pytest.mark.usefixtures("debugging")
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_use_is_as_ever_before_the_release_and_an_error_that_names_the_batch_after_it(
    use: Callable[[Array], object], images: Array
) -> None:
    batch = batch_of(images)
    kept, part = batch.images, batch.images[1:, ::2].transpose(0, 3, 1, 2)
    if use is not USES["the address"]:
        np.testing.assert_equal(use(kept), use(images))
    batch.release()
    for view in (kept, part):
        with pytest.raises(LoaderError, match=r"epoch 3, position 1280 was released.*copy\(\)"):
            use(view)


@pytest.mark.usefixtures("debugging")
def test_to_hold_a_view_and_to_know_its_shape_is_no_error(images: Array) -> None:
    batch = batch_of(images)
    kept = batch.images
    batch.release()
    assert kept.shape == (4, 8, 8, 3)
    assert kept.dtype == np.dtype(np.uint8)
    assert len(kept) == 4


@pytest.mark.usefixtures("debugging")
@pytest.mark.parametrize("leave", [np.asarray, memoryview, through_torch], ids=lambda leave: leave.__name__)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_what_left_numpy_sees_no_pixel_any_more(leave: Callable[[Array], Any], dtype: Any, images: Array) -> None:
    batch = batch_of(images.astype(dtype))
    kept = leave(batch.images)
    assert np.array_equal(np.array(kept), images)
    batch.release()
    seen = np.array(kept)
    assert np.isnan(seen).all() if dtype is np.float32 else (seen == POISON).all()


@pytest.mark.usefixtures("debugging")
def test_what_was_copied_in_time_stays(images: Array) -> None:
    batch = batch_of(images)
    copies = [batch.copy().images, batch.images.copy(), batch.images.astype(int), batch.images[[0, 1, 2, 3]]]
    copies += [batch.images + 0, np.array(batch.images), np.ascontiguousarray(batch.images.transpose(0, 3, 1, 2))]
    batch.release()
    for copy in copies:
        assert int(copy.sum()) == int(images.sum())


def test_otherwise_the_images_are_the_array_itself(images: Array) -> None:
    assert batch_of(images).images is images


@pytest.mark.usefixtures("debugging")
@pytest.mark.parametrize(("transport", "pixels"), [("slab", "uint8"), ("slab", "float32"), ("frames", "uint8")])
def test_a_reader_that_keeps_the_last_batch_is_told_so(
    service: LoaderProcess, transport: Transport, pixels: Pixels
) -> None:
    spec = StreamSpec(crop=64, pixels=pixels)
    with LoaderClient(service.endpoint, transport=transport) as loader:
        batches = loader.stream(spec, 16).batches([0], lend=True)
        before = next(batches).images
        now = next(batches).images
        with pytest.raises(LoaderError, match="epoch 0, position 0 was released"):
            np.abs(now - before)
