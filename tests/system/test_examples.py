"""The examples of deploy/examples, as printed but for the loader's endpoint."""

import json
import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torch.optim.optimizer import register_optimizer_step_post_hook

from tests.support.paths import ROOT
from tests.support.processes import PATIENCE_S, LoaderProcess

EXAMPLES = ROOT / "deploy" / "examples"


def example(name: str, endpoint: str, folder: Path) -> Path:
    source = (EXAMPLES / name).read_text()
    assert source.count("tcp://127.0.0.1:5555") == 1
    (path := folder / name).write_text(source.replace("tcp://127.0.0.1:5555", endpoint))
    return path


def train(script: Path, folder: Path, steps: int | None = None) -> dict[str, Any]:
    """Run it in `folder`, as python does; interrupted after so many steps, as by Ctrl-C. Returns its names."""
    left = steps

    def count(*_: object) -> None:
        nonlocal left
        left = None if left is None else left - 1
        if left == 0:
            raise KeyboardInterrupt

    folder.mkdir(exist_ok=True)
    before, hook = Path.cwd(), register_optimizer_step_post_hook(count)
    os.chdir(folder)
    try:
        return runpy.run_path(str(script), run_name="__main__")
    except (KeyboardInterrupt, SystemExit):
        assert left == 0
        return {}
    finally:
        hook.remove()
        os.chdir(before)


def check(name: str, endpoint: str, folder: Path) -> None:
    """Weights of a run that is interrupted in its second epoch, past a checkpoint, and run again."""
    script = example(name, endpoint, folder)
    whole = train(script, folder / "whole")["model"].state_dict()
    assert train(script, folder / "stopped", steps=8) == {}
    resumed = train(script, folder / "stopped")["model"].state_dict()
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[each], resumed[each]) for each in whole)
    assert not all(torch.equal(weights, torch.zeros_like(weights)) for weights in whole.values())


def test_plain_torch_resumes_with_the_same_weights(service: LoaderProcess, tmp_path: Path) -> None:
    check("plain.py", service.endpoint, tmp_path)


@pytest.mark.parametrize(
    ("name", "libraries"),
    [("lightning_module.py", ("lightning",)), ("hugging_face.py", ("accelerate", "transformers"))],
)
def test_others_trainers_resume_with_the_same_weights(
    name: str, libraries: tuple[str, ...], service: LoaderProcess, tmp_path: Path
) -> None:
    """In a process of their own, since they warn and take over signals."""
    if missing := [library for library in libraries if find_spec(library) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    command = [sys.executable, "-m", "tests.system.test_examples", name, service.endpoint, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=4 * PATIENCE_S)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_two_ranks_train_on_ray(service: LoaderProcess, tmp_path: Path) -> None:
    script, run = example("on_ray.py", service.endpoint, tmp_path), tmp_path / "run"
    quick = f'"--run={run}", "--width=0.05", "--steps=6"'
    script.write_text(script.read_text().replace('"--run=/tmp/on-ray"', quick))
    path = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, script], env=path, capture_output=True, text=True, timeout=4 * PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["ranks"] == 2
    assert (run / "checkpoint-00000006.safetensors").exists()


def test_the_notebook_runs_and_shows_images(
    service: LoaderProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = nbformat.read(example("look.ipynb", service.endpoint, tmp_path), as_version=4)
    NotebookClient(notebook, timeout=PATIENCE_S, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert printed.splitlines()[0] == "150 images of 10 classes in 10 batches"
    assert "the same bits: True" in printed


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = nbformat.read(EXAMPLES / "look.ipynb", as_version=4)
    assert [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []


if __name__ == "__main__":
    check(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
