"""alexnet-export: its files answer as the run does, without this program, or are not written."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from common.cli import entry
from common.errors import AlexNetError
from tests.support.full_disk import FullDisk
from tests.support.lively_nets import NAMES, images, save_lively, trainers_probabilities, variant
from tests.support.paths import ROOT
from trainer.checkpoints import checkpoint
from trainer.cli.export_command import main
from trainer.evaluation.trained import load_trained
from trainer.export import export_run
from trainer.export.comparison import Reference
from trainer.plain import AlexNet2012

Run = Callable[[Path, torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def _precision_of_a_new_process() -> None:
    """Trainings of other tests, in this process, have set it; torch.export then asks for settings by operation."""
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipe source, whose net has every kind of layer."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    checkpoint.save_best(save_lively(folder, variant("source", "")))
    return folder


@pytest.fixture(scope="module")
def onnx_file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    assert re.search(r"net\.onnx: .* within \d", exported(run, "--to", "onnx", "--out", path).output)
    return path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in (*arguments, "--threads", 1)])


def exported(*arguments: str | Path) -> Result:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(exit_code: int, error: str, *arguments: str | Path) -> None:
    result = invoke(*arguments)
    assert result.exit_code == exit_code, result.output
    assert re.search(error, result.output.splitlines()[-1]), result.output


def assert_answers(logits: torch.Tensor, run: Path, seen: torch.Tensor) -> None:
    torch.testing.assert_close(logits.softmax(dim=1), trainers_probabilities(run, seen)[1], rtol=0, atol=1e-5)


def test_an_onnx_file_answers_as_the_run_in_batches_of_any_size(onnx_file: Path, run: Path) -> None:
    session = onnxruntime.InferenceSession(onnx_file)
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 3, 256, 256])
    assert (answer.name, answer.type, answer.shape) == ("logits", "tensor(float)", ["batch", len(NAMES)])
    for count in (1, 3):
        seen = images(count, seed=count)
        (logits,) = session.run(None, {"images": seen.numpy()})
        assert_answers(torch.from_numpy(logits), run, seen)
    metadata = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(metadata["class_names"])) == NAMES
    assert json.loads(metadata["recipe"])["name"] == "source"


def test_the_readme_s_script_runs_an_onnx_file_without_this_program(onnx_file: Path, run: Path, tmp_path: Path) -> None:
    scripts = re.findall(r"^```python\n(.*?)^```", (ROOT / "trainer/README.md").read_text(), re.MULTILINE | re.DOTALL)
    (script,) = (script for script in scripts if "onnxruntime" in script)
    assert set(re.findall(r"^(?:import|from) (\w+)", script, re.MULTILINE)) == {"json", "numpy", "onnxruntime", "PIL"}
    (tmp_path / "net.onnx").symlink_to(onnx_file)
    seen = images(1)
    Image.fromarray(np.ascontiguousarray(seen[0].permute(1, 2, 0).numpy())).save(tmp_path / "image.png")
    script = script.replace("image.jpg", "image.png")  # whose pixels are the image's own
    done = subprocess.run(
        [sys.executable, "-"], input=script, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    likeliest = trainers_probabilities(run, seen)[1][0].argsort(descending=True)[:5]
    assert [line.split()[0] for line in done.stdout.splitlines()] == [NAMES[label] for label in likeliest]


def test_a_program_of_torch_answers_as_the_run(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    exported(run, "--to", "torch", "--out", path)
    extra = {"class_names.json": "", "recipe.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    for count in (1, 3):
        assert_answers(program(images(count)), run, images(count))
    assert tuple(json.loads(extra["class_names.json"])) == NAMES


def test_a_hub_s_folder_holds_the_network_its_names_and_a_card(run: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    for _ in range(2):  # the second replaces the first
        exported(run, "--hub", hub)
        assert {path.name for path in hub.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    with torch.no_grad():
        assert_answers(AlexNet2012.from_run(hub)(images()), run, images())
    config = json.loads((hub / "config.json").read_text())
    assert config["id2label"] == {str(label): name for label, name in enumerate(NAMES)}
    assert config["recipe"]["conv"][0]["name"] == "conv1"
    card = (hub / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: ")
    assert "recipe source" in card
    assert "7 classes" in card


def test_safetensors_and_a_hub_s_folder_are_written_at_once_and_a_link_stays(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    result = exported(run, "--to", "safetensors", "--out", tmp_path / "link", "--hub", tmp_path / "hub")
    assert len(re.findall("within", result.output)) == 2
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == (tmp_path / "hub/model.safetensors").read_bytes()


def test_what_answers_otherwise_is_told_from_what_is_right(run: Path, tmp_path: Path) -> None:
    reference = Reference.of(load_trained(run))
    net = AlexNet2012.from_run(run)
    with torch.no_grad():
        assert reference.compare(net, "f") < 1e-5
        bias = net.get_parameter("conv1.bias")
        bias.add_(0.01)
        with pytest.raises(AlexNetError, match="f is not written: its probabilities differ"):
            reference.compare(net, "f")
        bias.add_(torch.nan)
        with pytest.raises(AlexNetError, match="nan"):
            reference.compare(net, "f")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with an earlier export."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/net").write_text("earlier")
    return tmp_path / "kept"


def of_another_net(path: Path, seen: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(seen), len(NAMES))


def interrupted(path: Path, seen: torch.Tensor) -> torch.Tensor:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("answer", "exit_code", "error"), [(of_another_net, 1, "differ from the run's"), (interrupted, 130, "interrupted")]
)
def test_nothing_is_left_of_an_export_that_differs_or_is_interrupted(
    answer: Run, exit_code: int, error: str, run: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_run, "run_weights", answer)
    refused(exit_code, error, run, "--to", "safetensors", "--out", kept / "net")
    refused(exit_code, error, run, "--hub", kept / "hub")
    assert [path.name for path in kept.iterdir()] == ["net"]
    assert (kept / "net").read_text() == "earlier"


def test_nothing_is_left_of_an_export_on_a_full_disk(run: Path, tmp_path: Path) -> None:
    with FullDisk(tmp_path / "disk", kib=256) as disk:
        (disk.folder / "net").write_text("earlier")
        disk.fill()
        refused(1, "net cannot be written: No space left", run, "--to", "safetensors", "--out", disk.folder / "net")
        refused(1, "cannot be written: No space left", run, "--hub", disk.folder / "hub")
        assert {path.name for path in disk.folder.iterdir()} == {"net", "ballast"}
        assert (disk.folder / "net").read_text() == "earlier"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("RUN --to torch --out folder", "it is a folder"),
        ("RUN --to torch --out fifo", "not a regular file"),
        ("RUN --hub file", "not a folder"),
        ("RUN --hub hub", "it is a folder"),
        ("folder --to torch --out net", "holds no checkpoint"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    arguments: str, error: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub/config.json").mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    refused(2, error, *(str(run) if word == "RUN" else word for word in arguments.split()))
    assert not (tmp_path / "net").exists()


def test_a_damaged_checkpoint_is_an_error(run: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "best.safetensors"
    damaged.write_bytes((run / "best.safetensors").read_bytes()[:-1] + b"\0")
    refused(1, "damaged", damaged, "--to", "torch", "--out", tmp_path / "net")


def test_a_missing_library_is_named_with_its_extra(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "find_spec", lambda name: None if name == "onnxruntime" else name)
    refused(2, r'onnxruntime is not installed; pip install "alexnet\[export\]"', run, "--to", "onnx", "--out", "net")
