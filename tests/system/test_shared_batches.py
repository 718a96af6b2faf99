"""Ranks that share batches of any size: together they read what one rank reads."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.client.batch import Batch
from common.client.client import LoaderClient
from common.errors import UsageError
from common.spec import StreamSpec
from tests.support.processes import LoaderProcess

SPEC, RECORDS = StreamSpec("val", seed=3, crop=16), 40


@pytest.fixture(scope="module")
def loader(service: LoaderProcess) -> Iterator[LoaderClient]:
    with LoaderClient(service.endpoint) as loader:
        yield loader


@given(data=st.data(), whole=st.integers(1, 50), ranks=st.integers(1, 8), lend=st.booleans())
@settings(max_examples=25)
def test_the_union_over_ranks_is_the_stream_of_one_rank(
    loader: LoaderClient, data: st.DataObject, whole: int, ranks: int, lend: bool
) -> None:
    first, end = data.draw(st.integers(0, RECORDS)), data.draw(st.integers(RECORDS - 10, RECORDS))
    first = min(first, end)
    alone = loader.stream(SPEC, whole, digests="on")
    streams = [loader.stream(SPEC, -(-whole // ranks), digests="on", ranks=ranks) for _ in range(ranks)]
    shares = [
        stream.batches([0, 2], first=first, end=end, share=(rank, ranks), whole=whole, lend=lend)
        for rank, stream in enumerate(streams)
    ]
    batches = alone.batches([0, 2], first=first, end=end)
    for parts, batch in zip(zip(*shares, strict=True), batches, strict=True):
        count = len(batch)
        assert [len(part) for part in parts] == [count * (r + 1) // ranks - count * r // ranks for r in range(ranks)]
        assert [(part.epoch, part.first) for part in parts] == [
            (batch.epoch, batch.first + count * rank // ranks) for rank in range(ranks)
        ]
        for what in ("images", "labels", "records", "digests"):
            assert np.array_equal(np.concatenate([getattr(part, what) for part in parts]), getattr(batch, what)), what
    for stream in (alone, *streams):
        stream.close()


def test_a_part_without_images_is_a_batch_like_any_other(loader: LoaderClient) -> None:
    stream = loader.stream(SPEC, 10, ranks=4)
    (*_, last), (*_, lent) = (list(stream.batches([0], share=(0, 4), whole=39, lend=lend)) for lend in (False, True))
    for batch in (last, lent, lent.copy()):
        assert isinstance(batch, Batch)
        assert (len(batch), batch.epoch, batch.first) == (0, 0, 39)
        assert batch.images.shape == (0, 16, 16, 3)
        assert [each.dtype.name for each in (batch.images, batch.labels, batch.records)] == ["uint8", "int64", "int64"]
    last.images[:] = 1  # the caller's own


def test_parts_beyond_a_batch_of_the_stream_are_refused(loader: LoaderClient) -> None:
    stream = loader.stream(SPEC, 3, ranks=4)
    with pytest.raises(UsageError, match="whole is 13: parts for 4 ranks have up to 4 images, the stream's batches 3"):
        stream.batches([0], share=(0, 4), whole=13)
    for wrong, told in ((0, "whole is 0; "), (True, "whole is True; "), (12.0, "whole is 12.0; ")):
        with pytest.raises(UsageError, match=told):
            stream.batches([0], share=(0, 4), whole=wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="ranks is 0; "):
        loader.stream(SPEC, 3, ranks=0)
