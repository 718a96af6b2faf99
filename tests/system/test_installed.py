"""What a user installs, a wheel, used in a folder full of files that are named like modules."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest

from tests.support.paths import ROOT
from tests.support.processes import wait_for

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
    """Where the commands of a new environment are: the wheel, and this one's libraries, but not this checkout."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=120)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(venv / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return venv / "bin"


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
    sources = [path for path in files if path.parent.name != "__pycache__"]
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    assert names == {path.relative_to(ROOT).as_posix() for path in sources}
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert "Classifier: Operating System :: POSIX :: Linux" in metadata


def test_installed_commands_pack_serve_train_and_evaluate_and_import_nothing_of_the_folder_they_are_started_in(
    installed: Path, trapped: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": ""}

    def run(*words: str) -> str:
        command = [str(installed / words[0]), *words[1:]]
        done = subprocess.run(command, cwd=trapped, env=environment, capture_output=True, text=True, timeout=120)
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
    with subprocess.Popen(serve, cwd=trapped, env=environment, stderr=subprocess.PIPE, text=True) as loader:
        try:
            ready = trapped / "ready"
            wait_for("the loader to be ready or to end", lambda: ready.exists() or loader.poll() is not None)
            assert loader.poll() is None, loader.communicate()[1]
            served = ("--cpu", "--threads", "1", "--loader", ready.read_text().strip())
            run("alexnet-trainer", *served, "--recipe", "demo", "--width", "0.05", "--steps", "1", "--run", "run")
            assert "top-1" in run("alexnet-evaluate", *served, "run", "--views", "1")
        finally:
            loader.terminate()
    assert loader.returncode == 0
