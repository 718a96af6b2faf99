"""Names of records from a service to its clients, with real processes."""

import shutil
import signal
from itertools import islice
from pathlib import Path

import pytest

from common.client.client import LoaderClient
from common.errors import LoaderError, UsageError
from common.spec import StreamSpec
from loader.dataset import Dataset
from tests.support.packing import forget_names
from tests.support.processes import LoaderProcess
from tests.support.reader import SPEC, fingerprint, read_until


@pytest.fixture(scope="module")
def names(packed: Path) -> list[str]:
    with Dataset(packed / "train.lmdb") as dataset:
        return [dataset.name(record).decode() for record in range(150)]


def test_a_stream_names_its_records_in_the_middle_of_a_pass_too(
    service: LoaderProcess, names: list[str], undisturbed: list[str]
) -> None:
    assert len(set(names)) == 150
    with LoaderClient(service.endpoint) as loader:
        stream = loader.stream(SPEC, 16)
        batches = stream.batches(range(2), lend=True)
        seen = fingerprint(islice(batches, 3))
        assert stream.names([149, 0, 7, 149]) == [names[149], names[0], names[7], names[149]]
        assert stream.names(range(150)) == names
        assert stream.names([]) == []
        for absent in (-1, 150, 1.5):
            with pytest.raises(UsageError, match="a record is"):
                stream.names([0, absent])  # type: ignore[list-item]
        assert seen + fingerprint(batches) == undisturbed
        val = loader.stream(StreamSpec("val", view="full"), 16)
        for batch in val.batches([0]):
            classes = [name.split("/")[0] for name in val.names(batch.records)]
            assert classes == [val.info.classes[label] for label in batch.labels]
        val.close()
        with pytest.raises(LoaderError, match="the stream was closed"):
            val.names([0])


def test_names_come_from_whichever_host_has_them(
    packed: Path, service: LoaderProcess, names: list[str], tmp_path: Path
) -> None:
    before = shutil.copytree(packed, tmp_path / "before")
    forget_names(before / "train.lmdb")
    with LoaderProcess(before, tmp_path, 1) as nameless:
        with LoaderClient(nameless.endpoint) as loader:
            assert loader.stream(SPEC, 16).names(range(150)) == [""] * 150
        with LoaderClient([nameless.endpoint, service.endpoint]) as loader:
            stream = loader.stream(SPEC, 16)
            passes = (batch for _ in range(10**6) for batch in stream.batches(range(2)))
            read_until(passes, lambda: stream.loaders.hosts == 2)
            assert stream.names(range(150)) == names
            nameless.signal(signal.SIGSTOP)
            assert stream.names(range(150)) == names, "asked of the other when one is silent"
            nameless.signal(signal.SIGKILL)
            nameless.process.wait()
            assert stream.names(range(150)) == names
