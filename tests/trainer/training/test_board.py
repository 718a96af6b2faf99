"""Events that a run leaves for TensorBoard, read back by TensorBoard itself."""

import builtins
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.errors import UsageError
from tests.support.memory_loader import MemoryLoader, draw
from tests.support.tiny_run import STEPS, STEPS_PER_EPOCH, Train, lines, train_with
from trainer.checkpoints import checkpoint
from trainer.training.board import EPOCH_SCALARS, STEP_SCALARS, Board, filters_image, tiled, wait_for_a_later_name


def events(run_folder: Path, part: str) -> Any:
    """All that TensorBoard finds, none of it thinned out."""
    found: Any = EventAccumulator(str(run_folder / "tensorboard" / part), {"scalars": 0, "images": 0})
    found.Reload()
    return found


def scalars(found: Any, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(name)]


def pictures(found: Any, name: str) -> dict[int, np.ndarray]:
    all_of_it = found.Images(name)
    steps = [image.step for image in all_of_it]
    assert steps == sorted(set(steps)), "a picture came twice"
    return {image.step: np.array(Image.open(io.BytesIO(image.encoded_image_string))) for image in all_of_it}


def equals_metrics(folder: Path) -> None:
    """Every scalar of metrics.jsonl, each once, and nothing else."""
    steps, epochs = lines(folder, "step"), lines(folder, "epoch")
    same_scalars(events(folder, "steps"), steps, STEP_SCALARS, [line["step"] for line in steps])
    same_scalars(events(folder, "epochs"), epochs, EPOCH_SCALARS, [line["epoch"] + 1 for line in epochs])


def same_scalars(found: Any, told: list[dict[str, Any]], names: tuple[str, ...], at: list[int]) -> None:
    names = tuple(name for name in names if told[0][name] is not None)  # as the top-5 error of three classes
    assert set(found.Tags()["scalars"]) == {*names, *(f"waits/{reason}" for reason in told[0]["waits"])}
    for name in names:
        assert scalars(found, name) == list(zip(at, [as_stored(line[name]) for line in told], strict=True)), name
    for reason in told[0]["waits"]:
        shares = [as_stored(line["waits"][reason]) for line in told]
        assert scalars(found, f"waits/{reason}") == list(zip(at, shares, strict=True)), reason


def as_stored(value: float) -> float:
    """Events hold float32."""
    return float(np.float32(value))


@pytest.fixture(scope="module")
def memory() -> MemoryLoader:
    return MemoryLoader(train_records=18, val_records=6)


@pytest.fixture(scope="module")
def trained(memory: MemoryLoader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run with --tensorboard on `memory`'s images."""
    with pytest.MonkeyPatch.context() as patch:
        return train_with(patch, memory, tmp_path_factory.mktemp("trained"))(tensorboard=True).checkpoint


def test_tensorboard_shows_what_metrics_say(trained: Path) -> None:
    equals_metrics(trained.parent)


def test_the_filters_are_shown_at_the_start_and_after_each_epoch(trained: Path) -> None:
    shown = pictures(events(trained.parent, "epochs"), "filters")
    assert sorted(shown) == [0, 1, 2, 3]
    weights = checkpoint.load(trained).weights["conv1.weight"].numpy()
    assert np.array_equal(shown[3], filters_image(weights))
    assert not np.array_equal(shown[0], shown[3])


def test_the_inputs_are_the_first_pictures_of_each_epoch_as_the_network_sees_them(
    trained: Path, memory: MemoryLoader
) -> None:
    shown = pictures(events(trained.parent, "epochs"), "inputs")
    assert sorted(shown) == [1, 2, 3]
    spec = next(spec for spec in memory.specs if spec.split == "train")
    drawn = np.stack([draw(spec, 1, position, position % 3) for position in range(4)])
    assert np.array_equal(shown[2], tiled(drawn, 4))


@pytest.mark.parametrize("steps", [2, STEPS_PER_EPOCH])
def test_nothing_that_a_resumed_run_does_again_appears_twice(train: Train, tmp_path: Path, steps: int) -> None:
    folder = tmp_path / "run"
    train(steps=steps, tensorboard=True)
    found = checkpoint.all_in(folder)
    train(resume=True, steps=steps + 4, tensorboard=True)  # and that is lost, as when it is killed
    for path in checkpoint.all_in(folder):
        if path not in found:
            path.unlink()
    (folder / checkpoint.BEST).unlink(missing_ok=True)
    train(resume=True, tensorboard=True)
    equals_metrics(folder)
    assert scalars(events(folder, "steps"), "loss")[-1][0] == STEPS
    assert sorted(pictures(events(folder, "epochs"), "filters")) == [0, 1, 2, 3]
    assert sorted(pictures(events(folder, "epochs"), "inputs")) == [1, 2, 3]


@pytest.mark.parametrize("ahead_s", [0, 3600])
def test_a_run_that_is_resumed_within_a_second_has_a_later_name_unless_the_clock_was_set_back(
    tmp_path: Path, ahead_s: int
) -> None:
    (tmp_path / "steps").mkdir()
    second = int(time.time())
    (tmp_path / "steps" / f"events.out.tfevents.{second + ahead_s}.host.9.9").touch()
    wait_for_a_later_name(tmp_path)
    assert ahead_s > 0 or int(time.time()) > second


def test_without_the_option_nothing_is_written(train: Train, tmp_path: Path) -> None:
    train(steps=1)
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_tensorboard_that_is_not_installed_is_one_line_that_names_the_extra(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_import = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.split(".")[0] == "tensorboard" or name == "torch.utils.tensorboard":
            raise ModuleNotFoundError(name)
        return plain_import(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'alexnet\[tensorboard\]'"):
        train(tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_a_usage_error(train: Train, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("in the way")
    with pytest.raises(UsageError, match="--tensorboard"):
        train(tensorboard=True)


def test_events_that_the_disk_does_not_take_end_the_events_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Board(tmp_path, 0, 0) as board:

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(board._epochs, "add_image", full)
        for _ in range(3):
            board.image("filters", np.zeros((4, 4, 3), np.uint8), 1)
    assert caplog.text.count("no more events") == 1
