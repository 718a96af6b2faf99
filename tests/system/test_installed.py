"""The wheel that a user installs, in a folder full of files that are named like modules."""

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest

from tests.support.paths import ROOT
from tests.support.processes import LoaderProcess, wait_for

PACKAGES = ("common", "loader", "trainer")
LIBRARIES = (
    "click",
    "cv2",
    "lmdb",
    "msgpack",
    "numpy",
    "PIL",
    "scipy",
    "torch",
    "turbojpeg",
    "xxhash",
    "zmq",
    "triton",
)
BASE = ("msgpack", "numpy", "pyzmq", "xxhash")
NO_PATH = {**os.environ, "PYTHONPATH": ""}
BUILD = "from setuptools import build_meta; build_meta.build_wheel('.')"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy of the sources, as a build leaves files beside them."""
    sources = tmp_path_factory.mktemp("sources")
    for package in PACKAGES:
        copytree(ROOT / package, sources / package, ignore=ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        copy(ROOT / name, sources)
    subprocess.run([sys.executable, "-c", BUILD], cwd=sources, check=True, capture_output=True, timeout=120)
    (path,) = sources.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a new environment: the wheel, and this one's libraries, but not this checkout."""
    site = environment(wheel, tmp_path_factory.mktemp("installed"))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return site.parents[2] / "bin"


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a new environment: the wheel, and the libraries that it requires without extras."""
    site = environment(wheel, tmp_path_factory.mktemp("base"))
    for name in BASE:
        link_library(name, site)
    return site.parents[2] / "bin"


def environment(wheel: Path, folder: Path) -> Path:
    """The site-packages of a new virtual environment that holds the wheel alone."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    (site,) = folder.glob("lib/python*/site-packages")
    return site


def link_library(name: str, site: Path) -> None:
    """Links to what an installed distribution has in this environment's site-packages."""
    files = distribution(name).files or []
    for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
        (site / top).symlink_to(Path(sysconfig.get_path("purelib")) / top)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project, whose own modules have the names of ours."""
    (folder := tmp_path / "project").mkdir()
    for name in ("common", "loader"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("MINE = True\n")
    (folder / "trainer.py").write_text("MINE = True\n")
    return folder


@pytest.fixture
def trapped(tmp_path: Path) -> Iterator[Path]:
    """A folder whose files say that they were imported; fails if one was."""
    (folder := tmp_path / "folder").mkdir()
    imported = tmp_path / "imported"
    trap = f"open({str(imported)!r}, 'a').write(__file__ + '\\n')\nraise RuntimeError('imported from the folder')\n"
    for name in (*sys.stdlib_module_names, *LIBRARIES):
        (folder / f"{name}.py").write_text(trap)
    for name in PACKAGES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(trap)
    yield folder
    assert not imported.exists(), imported.read_text()


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    kinds = (".py", ".typed", ".bin", ".jinja")
    sources = {path.relative_to(ROOT).as_posix() for path in files if path.suffix in kinds}
    for folder, second_name in (("common", "alexnet_client"), ("trainer/plain", "alexnet2012")):
        sources |= {path.replace(folder, second_name, 1) for path in sources if path.startswith(f"{folder}/")}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    assert names == sources
    assert {f"{package}/py.typed" for package in (*PACKAGES, "alexnet_client", "alexnet2012")} <= names
    assert "Classifier: Operating System :: POSIX :: Linux" in metadata
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert sorted(re.split("[ >]", line)[1] for line in required) == sorted(BASE)


NUMPY_LOOP = """
import sys

import common
import loader
import trainer
from alexnet_client import Batch, LoaderClient, StreamSpec


def total(batch: Batch) -> int:
    return int(batch.images.sum())


assert common.MINE and loader.MINE and trainer.MINE
with LoaderClient(sys.argv[1]) as client:
    stream = client.stream(StreamSpec(split="train", crop=64), batch_size=16)
    print(sum(total(batch) for batch in stream.batches(range(1))))
assert not {"torch", "lmdb", "click", "cv2"} & set(sys.modules)
try:
    import alexnet_client.torch
except ImportError as error:
    assert str(error) == "alexnet_client.torch needs torch, which is not installed: pip install torch", error
else:
    raise AssertionError("torch is not there")
"""
TORCH_LOOP = """
import sys

import common
import torch
import trainer
from alexnet2012 import AlexNet2012
from alexnet_client.torch import StreamDataset

assert common.MINE and trainer.MINE
assert AlexNet2012("cifar10")(torch.zeros(2, 3, 256, 256, dtype=torch.uint8)).shape == (2, 10)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
with StreamDataset(sys.argv[1], split="train", crop=64, batch_size=16) as dataset:
    for images, labels in torch.utils.data.DataLoader(dataset, batch_size=None):
        loss = torch.nn.functional.cross_entropy(model(images.float()), labels)
        loss.backward()
        optimizer.step()
print(loss.item())
"""


def test_the_client_feeds_numpy_and_torch_in_a_project_that_has_modules_of_our_names(
    base: Path, installed: Path, project: Path, packed: Path, tmp_path: Path
) -> None:
    """The first with the base wheel alone."""
    with LoaderProcess(packed, tmp_path) as service:
        for loop, bin in ((NUMPY_LOOP, base), (TORCH_LOOP, installed)):
            (project / "main.py").write_text(loop)
            command = [str(bin / "python"), "main.py", service.endpoint]
            done = subprocess.run(command, cwd=project, env=NO_PATH, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            assert float(done.stdout) > 0


def test_a_type_checker_knows_the_client_s_types(base: Path, project: Path) -> None:
    (project / "main.py").write_text(NUMPY_LOOP + 'StreamSpec(split="tarin", crop="x")\n')
    checker = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(base / "python"), "main.py"]
    done = subprocess.run(checker, cwd=project, env=NO_PATH, capture_output=True, text=True, timeout=300)
    assert re.findall(r"error: .*\[(.*)\]", done.stdout) == ["arg-type", "arg-type"], done.stdout


@pytest.mark.parametrize(
    ("beside", "command", "missing", "extra"),
    [
        ((), "alexnet-loader", "click", "loader"),
        ((), "alexnet-evaluate", "click", "trainer"),
        (("click", "safetensors"), "alexnet-predict", "torch", "trainer,images"),
        (("click", "safetensors"), "alexnet-trainer", "torch", "trainer"),
        (("click", "safetensors", "torch"), "alexnet-report", "jinja2", "trainer,report"),
        (("click", "opencv-python-headless"), "alexnet-pack", "lmdb", "loader"),
    ],
)
def test_a_command_that_lacks_its_extra_names_it(
    base: Path, tmp_path: Path, beside: tuple[str, ...], command: str, missing: str, extra: str
) -> None:
    for name in beside:
        link_library(name, tmp_path)
    lacking = {**NO_PATH, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([base / command, "--version"], env=lacking, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f'{command}: error: {missing} is not installed; pip install "alexnet[{extra}]"\n'


def test_installed_commands_pack_serve_train_and_evaluate_and_import_nothing_of_the_folder_they_are_started_in(
    installed: Path, trapped: Path
) -> None:
    def run(*words: str) -> str:
        command = [str(installed / words[0]), *words[1:]]
        done = subprocess.run(command, cwd=trapped, env=NO_PATH, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("python", "-P", "-c", "import common, loader, trainer; print(common, loader, trainer)")
    assert where.count(f"from '{installed.parent}/") == 3

    run("alexnet-pack", "--demo", "--demo-train", "16", "--demo-val", "10", "--jobs", "2", "data")
    assert "digest" in run("alexnet-loader", "audit", "--epoch", "0", "--jobs", "2", "--batch-size", "8")
    serve = [
        str(installed / "alexnet-loader"),
        "--workers",
        "2",
        "--bind",
        "tcp://127.0.0.1:*",
        "--ready-file",
        "ready",
    ]
    with subprocess.Popen(serve, cwd=trapped, env=NO_PATH, stderr=subprocess.PIPE, text=True) as loader:
        try:
            ready = trapped / "ready"
            wait_for("the loader to be ready or to end", lambda: ready.exists() or loader.poll() is not None)
            assert loader.poll() is None, loader.communicate()[1]
            served = ("--cpu", "--threads", "1", "--loader", ready.read_text().strip())
            run("alexnet-trainer", *served, "--recipe", "demo", "--width", "0.05", "--steps", "1", "--run", "run")
            assert "top-1" in run("alexnet-evaluate", *served, "run", "--views", "1")
            run("alexnet-report", "run", "--data", "data", "--cpu", "--threads", "1")
            assert "Filters of conv1" in (trapped / "report.html").read_text()
        finally:
            loader.terminate()
    assert loader.returncode == 0
