"""A stream under torch's DataLoader, and under the loaders of others that are installed."""

import contextlib
import hashlib
import itertools
import pickle
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from common.client.batch import Batch
from common.client.client import LoaderClient
from common.errors import LoaderError, LoaderTimeout, UsageError
from common.torch import StreamDataset, tensors
from tests.support.processes import PATIENCE_S, LoaderProcess, wait_for
from tests.support.reader import SPEC

RECORDS, BATCH = 150, 16  # ten batches, the last of six

Make = Callable[..., StreamDataset]


@pytest.fixture
def make(service: LoaderProcess) -> Iterator[Make]:
    """Makes datasets of SPEC, each with a client of its own."""
    made: list[StreamDataset] = []

    def make(**named: Any) -> StreamDataset:
        made.append(StreamDataset(service.endpoint, **{"spec": SPEC, "batch_size": BATCH, **named}))
        return made[-1]

    yield make
    for dataset in made:
        dataset.close()


def under_torch(dataset: StreamDataset) -> Any:
    return DataLoader(dataset, batch_size=None)


def bits(batches: Any) -> list[str]:
    """A digest of each (images, labels)."""
    return [
        hashlib.blake2b(images.numpy().tobytes() + labels.numpy().tobytes(), digest_size=8).hexdigest()
        for images, labels in batches
    ]


@pytest.fixture(scope="module")
def whole(service: LoaderProcess) -> list[list[str]]:
    """Digests of the batches of three epochs, as the client alone reads them."""
    with LoaderClient(service.endpoint) as loader:
        stream = loader.stream(SPEC, BATCH)
        return [bits(map(tensors, stream.batches([epoch]))) for epoch in range(3)]


def test_each_loop_over_a_dataloader_is_the_next_epoch_and_len_never_warns(make: Make, whole: list[list[str]]) -> None:
    loader = under_torch(make())
    assert len(loader) == 10
    assert [bits(loader) for _ in range(3)] == whole
    records = [record for batch in under_torch(make(transform=lambda batch: batch)) for record in batch.records]
    assert sorted(records) == list(range(RECORDS))


def test_batches_are_tensors_of_the_caller_s_own_in_channels_last_memory(make: Make) -> None:
    images, labels = next(iter(under_torch(make())))
    assert (images.shape, images.dtype) == ((BATCH, 3, 64, 64), torch.uint8)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (labels.shape, labels.dtype) == ((BATCH,), torch.int64)
    images += 1  # no warning that it is read-only
    full = next(iter(make(split="val", view="full", pixels="float32")))[0]
    assert (full.shape, full.dtype) == ((BATCH, 3, 256, 256), torch.float32)


def as_dict(batch: Batch) -> dict[str, Any]:
    return {"pixel_values": batch.images, "labels": batch.labels, "epoch": batch.epoch}


def test_a_transform_makes_what_the_loop_gets(make: Make) -> None:
    made = next(iter(under_torch(make(transform=as_dict))))
    assert made["pixel_values"].shape == (BATCH, 64, 64, 3)
    assert (made["labels"].dtype, made["epoch"]) == (torch.int64, 0)


@pytest.mark.parametrize("stopped", [(0, 1), (0, 9), (1, 0), (1, 4), (1, 10)])
def test_a_state_saved_in_the_middle_resumes_with_the_same_bits(
    make: Make, whole: list[list[str]], stopped: tuple[int, int], tmp_path: Path
) -> None:
    """Saved in the loop, as the client has requested more; (1, 10) after the last batch, before the loop ended."""
    epoch, batches = stopped
    dataset = make()
    dataset.set_epoch(epoch)
    loop = iter(under_torch(dataset))
    assert bits(next(loop) for _ in range(batches)) == whole[epoch][:batches]
    torch.save(dataset.state_dict(), tmp_path / "state.pt")

    state = torch.load(tmp_path / "state.pt")
    assert state == dataset.state_at(epoch, batches)
    resumed, again = make(), []
    resumed.load_state_dict(state)
    for epoch in range(resumed.epoch, 3):
        resumed.set_epoch(epoch)
        again.append(bits(under_torch(resumed)))
    assert again == [whole[stopped[0]][batches:], *whole[stopped[0] + 1 :]]


def test_epochs_can_be_chosen_left_and_read_again(make: Make, whole: list[list[str]]) -> None:
    dataset = make()
    loader = under_torch(dataset)
    next(iter(loader))
    assert dataset.epoch == 0
    assert bits(loader) == whole[1]  # left in its middle, an epoch is over
    assert dataset.state_dict() == dataset.state_at(2, 0)
    dataset.set_epoch(1)
    left = iter(loader)
    assert bits([next(left)]) == whole[1][:1]
    dataset.set_epoch(1)
    assert bits(loader) == whole[1]  # from its start
    with pytest.raises(LoaderError, match="another pass over the stream began"):
        next(left)
    assert dataset.state_dict() == dataset.state_at(2, 0)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("batches", [0, 4, 10])
def test_a_stateful_dataloader_resumes_by_its_own_state(make: Make, whole: list[list[str]], batches: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    loader = stateful(make(), batch_size=None)
    list(loader)
    loop = iter(loader)
    assert bits(next(loop) for _ in range(batches)) == whole[1][:batches]
    resumed = stateful(make(), batch_size=None)
    resumed.load_state_dict(loader.state_dict())
    assert bits(resumed) == whole[1][batches:]
    assert bits(resumed) == whole[2]


def test_a_loop_of_accelerate_resumes_by_its_own_count(make: Make, whole: list[list[str]]) -> None:
    shard = pytest.importorskip("accelerate.data_loader").DataLoaderShard
    dataset = make()
    loader = shard(dataset, batch_size=None)
    assert bits(loader) == whole[0]
    for count, _ in enumerate(loader, 1):
        if count == 4:
            break
    assert dataset.state_dict() == dataset.state_at(1, 5)  # it reads ahead
    resumed = make()
    resumed.load_state_dict(dataset.state_at(1, 4))
    loader = shard(resumed, batch_size=None)
    loader.set_epoch(resumed.epoch)
    assert [bits(loader), bits(loader)] == [whole[1][4:], whole[2]]


@pytest.mark.filterwarnings("ignore")  # Lightning's
@pytest.mark.parametrize("stopped", [4, 10, 13])
def test_lightning_reads_every_epoch_and_resumes_from_its_checkpoint(
    make: Make, whole: list[list[str]], stopped: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails after so many steps: in an epoch, at its end, and in the second one."""
    lightning = pytest.importorskip("lightning")
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # it takes over SIGTERM

    class Reader(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, steps: int) -> None:
            super().__init__()
            self.weight, self.seen, self.steps = torch.nn.Parameter(torch.zeros(())), list[str](), steps

        def training_step(self, batch: Any) -> torch.Tensor:
            if self.global_step == self.steps:
                raise InterruptedError
            self.seen += bits([batch])
            return self.weight * 1

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(steps: int, **named: Any) -> list[str]:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        saves = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "reader", every_n_train_steps=stopped)
        trainer = lightning.Trainer(accelerator="cpu", callbacks=[saves], max_epochs=3, **quiet)
        with contextlib.suppress(InterruptedError):
            trainer.fit(reader := Reader(steps), make(), **named)
        return list(reader.seen)

    every = list(itertools.chain(*whole))
    assert fit(stopped) == every[:stopped]
    assert fit(-1, ckpt_path=tmp_path / "reader.ckpt") == every[stopped:]


@pytest.mark.parametrize(("batch_size", "ranks", "drop_last"), [(15, 3, False), (24, 3, True), (16, 4, False)])
def test_ranks_read_equal_parts_that_together_are_every_batch(
    make: Make, batch_size: int, ranks: int, drop_last: bool
) -> None:
    named = {"batch_size": batch_size, "drop_last": drop_last}
    read = [list(make(**named, rank=rank, world_size=ranks, transform=lambda batch: batch)) for rank in range(ranks)]
    whole = list(make(**named, transform=lambda batch: batch))
    assert len(whole) == len(make(**named)) == (RECORDS // batch_size if drop_last else -(-RECORDS // batch_size))
    for parts, batch in zip(zip(*read, strict=True), whole, strict=True):
        assert [part.first for part in parts] == [batch.first + len(batch) * rank // ranks for rank in range(ranks)]
        assert np.array_equal(np.concatenate([part.images for part in parts]), batch.images)
        assert np.concatenate([part.records for part in parts]).tolist() == batch.records.tolist()
    sizes = {len(part) for rank in read for part in rank[:-1]}
    assert sizes == {batch_size // ranks}


def test_a_state_of_one_rank_resumes_any_number_of_ranks(make: Make) -> None:
    rank = make(batch_size=30, rank=1, world_size=3)
    loop = iter(rank)
    next(loop), next(loop)
    for others in (1, 2):
        resumed = make(batch_size=30, world_size=others, transform=lambda batch: batch)
        resumed.load_state_dict(rank.state_dict())
        assert [batch.first for batch in resumed] == [60, 90, 120]


def test_states_of_another_dataset_or_stream_are_refused(make: Make) -> None:
    state = make().state_dict()
    with pytest.raises(UsageError, match=f"this state is of dataset {state['dataset']}; the loader serves "):
        make(split="val").load_state_dict(state)
    for other in ({"seed": 4}, {"crop": 65}, {"shuffle": False}):
        with pytest.raises(UsageError, match="this state is of another StreamSpec than "):
            make(**other).load_state_dict(state)
    wrongs: list[Any] = [{}, [], {**state, "position": -1}, {**state, "epoch": "1"}]
    for wrong in wrongs:
        with pytest.raises(UsageError, match="no state of a StreamDataset|position is -1|epoch is '1'"):
            make().load_state_dict(wrong)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"batch_size": 0}, "batch_size is 0; "),
        (
            {"batch_size": 100, "world_size": 3},
            "batch_size is 100, of all ranks together; it is a multiple of world_size, 3",
        ),
        ({"rank": 2, "world_size": 2}, "rank is 2; it is a whole number from 0 to 1"),
        ({"world_size": 0}, "world_size is 0; "),
        ({"drop_last": 1}, "drop_last is 1; "),
        ({"batch_size": 160, "drop_last": True}, "an epoch of 150 images has no whole batch of 160: drop_last=False"),
        ({"batch_size": 16, "world_size": 8}, "an epoch's last batch has 6 images for 8 ranks: drop_last=True"),
        ({"crop": 0}, "crop is 0; "),
    ],
)
def test_a_dataset_that_could_not_be_read_is_refused_when_made(make: Make, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        make(**asked)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on
def test_dataloader_workers_copies_and_pickles_are_refused_in_words(make: Make) -> None:
    dataset = make()
    with pytest.raises(UsageError, match="num_workers=0"):
        next(iter(DataLoader(dataset, batch_size=None, num_workers=1)))
    with pytest.raises(LoaderError, match="cannot be pickled or copied: make it in the process that reads"):
        pickle.dumps(dataset)
    assert len(list(dataset)) == 10


def asked_again(loop: Iterator[Any]) -> Iterator[Any]:
    """The batches left, however slow the machine."""
    while True:
        with contextlib.suppress(LoaderTimeout):
            try:
                yield next(loop)
            except StopIteration:
                return


def test_a_timeout_is_waited_out_and_an_error_does_not_look_like_the_end(
    make: Make, service: LoaderProcess, whole: list[list[str]]
) -> None:
    loop, read = iter(under_torch(make(timeout_s=0.2))), list[Any]()
    service.signal(signal.SIGSTOP)
    try:
        with pytest.raises(LoaderTimeout):
            read.extend(loop)
    finally:
        service.signal(signal.SIGCONT)
    assert bits([*read, *asked_again(loop)]) == whole[0]

    loop = iter(under_torch(make(transform=lambda batch: 1 / 0)))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            next(loop)


def test_a_dropped_dataset_closes_its_stream_which_had_a_rank_s_share_of_the_slots(
    packed: Path, tmp_path: Path
) -> None:
    with LoaderProcess(packed, tmp_path, 2) as service:
        dataset = StreamDataset(service.endpoint, SPEC, batch_size=64 * 11, world_size=64)
        for _ in under_torch(dataset):
            break
        ((name, credit),) = re.findall(r"stream (\w+): .*, batches of 11, credit (\d+)", service.log.read_text())
        assert credit == "3"  # one of 64, and two more
        del dataset, _
        wait_for("its stream to be closed", lambda: f"stream {name} closed" in service.log.read_text())


FORKED_AND_LEFT = """
    import os, sys
    from alexnet_client import LoaderError
    from alexnet_client.torch import StreamDataset

    dataset = StreamDataset(sys.argv[1], batch_size=16, crop=64)
    loop = iter(dataset)
    next(loop)
    if os.fork() == 0:
        for again in (loop, iter(dataset)):
            try:
                next(again)
            except LoaderError as error:
                print(error)
        sys.exit()  # by way of every finalizer
    os.wait()
    print(len(list(loop)))  # and exit in the middle of the next
    next(iter(dataset))
"""


def test_a_fork_is_told_the_parent_reads_on_and_an_exit_in_the_middle_hangs_on_nothing(service: LoaderProcess) -> None:
    fork = "ignore::DeprecationWarning"  # of os.fork beside ZeroMQ's threads, from Python 3.12 on
    command = [sys.executable, "-W", "error", "-W", fork, "-c", textwrap.dedent(FORKED_AND_LEFT), service.endpoint]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, "")
    *told, left = done.stdout.splitlines()
    assert len(told) == 2
    assert all(re.search(r"opened in process \d+ and is used in process \d+, forked from it", each) for each in told)
    assert left == "9"
