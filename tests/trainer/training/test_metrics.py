"""The metrics file: one clean history, whatever was interrupted."""

from pathlib import Path

import pytest

from common.errors import UsageError
from trainer.training.metrics import FILE_NAME, Metrics, read


def history(folder: Path) -> list[tuple[str, int]]:
    return [(line["kind"], line["step"]) for line in read(folder / FILE_NAME)]


def write_two_epochs(folder: Path) -> None:
    with Metrics(folder) as metrics:
        metrics.write("run", step=0, epoch=0)
        for epoch, last_step in ((0, 20), (1, 40)):
            for step in (last_step - 10, last_step):
                metrics.write("step", step=step, epoch=epoch, loss=1.5)
            metrics.write("epoch", step=last_step, epoch=epoch)


def test_each_line_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.write("step", step=1, epoch=0, loss=0.5)
        assert read(tmp_path / FILE_NAME) == [{"kind": "step", "step": 1, "epoch": 0, "loss": 0.5}]


@pytest.mark.parametrize(
    ("step", "epoch", "last"),
    [
        (40, 2, ("epoch", 40)),  # the checkpoint at the end of epoch 1
        (40, 1, ("step", 40)),  # one before that epoch's validation
        (33, 1, ("step", 30)),
        (20, 1, ("epoch", 20)),
        (5, 0, ("run", 0)),
    ],
)
def test_a_resume_drops_what_lies_past_its_checkpoint(
    tmp_path: Path, step: int, epoch: int, last: tuple[str, int]
) -> None:
    write_two_epochs(tmp_path)
    before = history(tmp_path)
    with Metrics(tmp_path) as metrics:
        metrics.rewind(step, epoch)
        metrics.write("run", step=step, epoch=epoch)
    after = history(tmp_path)
    assert after[-1] == ("run", step)
    assert after[-2] == last
    assert after[:-1] == before[: len(after) - 1]


@pytest.mark.parametrize("torn", [b"{", b'{"kind": "step", "st', b'{"kind": "step", "step": 40, "epoch": 1}'])
def test_a_line_torn_by_a_kill_is_dropped(tmp_path: Path, torn: bytes) -> None:
    write_two_epochs(tmp_path)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes() + torn)
    with Metrics(tmp_path) as metrics:
        metrics.rewind(40, 2)
        metrics.write("step", step=50, epoch=2)
    assert history(tmp_path)[-2:] == [("epoch", 40), ("step", 50)]


def test_a_new_run_keeps_nothing_of_an_old_one(tmp_path: Path) -> None:
    write_two_epochs(tmp_path)
    with Metrics(tmp_path) as metrics:
        metrics.rewind(-1, 0)
    assert history(tmp_path) == []


def test_what_is_no_number_in_json_is_null(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.write("step", step=1, epoch=0, loss=float("nan"))
    assert read(tmp_path / FILE_NAME)[0]["loss"] is None


def test_a_file_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        Metrics(tmp_path)


def test_two_trainers_cannot_write_in_one_folder(tmp_path: Path) -> None:
    with Metrics(tmp_path), pytest.raises(UsageError, match="--run"):
        Metrics(tmp_path)
    with Metrics(tmp_path):
        pass
