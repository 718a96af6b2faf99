"""Dockerfile and compose.yaml; by tests/cluster.sh, with buildah, the images built and run as one pod's containers."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Command
from compose_spec import PyCompose

from tests.support.paths import ROOT
from tests.support.processes import children, command_line, wait_for

COMPOSE = ROOT / "deploy" / "compose.yaml"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
IGNORED = DOCKERFILE.with_suffix(".dockerignore")  # docker finds it there
TARGETS = ("loader", "trainer")
BUILD_S = 3600.0

by_hand = pytest.mark.skipif(
    "ALEXNET_CLUSTERS" not in os.environ or not (shutil.which("buildah") and shutil.which("mmdebstrap")),
    reason="by tests/cluster.sh, with buildah and mmdebstrap",
)


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def test_compose_is_of_its_schema_and_mistakes_are_found() -> None:
    text = COMPOSE.read_text()
    PyCompose.from_yaml(text).validate()
    for right, wrong in [("healthcheck:", "healthchek:"), ("retries: 60", "retries: '60'"), ("_healthy", "_fit")]:
        assert right in text
        with pytest.raises(ValueError, match=re.escape(wrong.split(": ")[-1].strip("':_"))):
            PyCompose.from_yaml(text.replace(right, wrong)).validate()


def test_services_of_compose_have_options_that_exist_and_share_what_a_slab_needs() -> None:
    from loader.cli.serve_command import main as loader
    from trainer.cli.train_command import main as trainer

    services = compose()["services"]
    options: dict[str, dict[str, Any]] = {}
    commands: dict[str, Command] = {"loader": loader, "trainer": trainer}
    for name, command in commands.items():
        options[name] = command.make_context(name, list(services[name]["command"])).params
    assert services["loader"]["healthcheck"]["test"][1:] == ["test", "-s", str(options["loader"]["ready_file"])]
    assert services["trainer"]["pid"] == services["trainer"]["network_mode"] == "service:loader"
    assert services["trainer"]["user"] == services["loader"]["user"]
    assert set(services["trainer"]["depends_on"]) <= set(services)


def test_the_dockerfile_has_each_target_and_copies_what_dockerignore_lets_through() -> None:
    text = DOCKERFILE.read_text()
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    assert {service["build"]["target"] for service in compose()["services"].values()} == set(TARGETS) <= targets
    copied = {name for line in re.findall(r"^COPY ((?!--from).+) \S+$", text, re.MULTILINE) for name in line.split()}
    let_through = {line[1:] for line in IGNORED.read_text().splitlines() if line.startswith("!")}
    assert copied == let_through


class Buildah:
    """Images in `folder`, built from Debian's packages, since a registry may be out of reach."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._base = ["buildah", f"--root={folder}/store", f"--runroot={folder}/run", "--storage-driver=vfs"]

    def __call__(self, *words: str | Path) -> str:
        done = subprocess.run([*self._base, *map(str, words)], stdout=subprocess.PIPE, text=True, timeout=BUILD_S)
        assert done.returncode == 0, words
        return done.stdout.strip()

    def make_base(self) -> None:
        subprocess.run(["mmdebstrap", "--variant=minbase", "bookworm", self.folder / "base.tar"], check=True)
        container = self("from", "scratch")
        self("add", "-q", container, self.folder / "base.tar", "/")
        self("commit", "-q", container, "localhost/base")

    def build(self, target: str) -> None:
        volumes = [f"--volume={self._pip_conf()}:/etc/pip.conf:ro"]
        volumes += [f"--volume={path}:{inside}:ro" for path, inside in _pip_files().items()]
        where = [
            "--isolation=chroot",
            "--build-arg=BASE=localhost/base",
            *volumes,
            f"--file={DOCKERFILE}",
            f"--ignorefile={IGNORED}",
        ]
        self("build", *where, f"--target={target}", f"--tag=alexnet-{target}", ROOT)

    def command(self, image: str, *words: str, volumes: dict[Path, str]) -> list[str]:
        container = self("from", f"localhost/{image}")
        mounts = [f"--volume={path}:{inside}" for path, inside in volumes.items()]
        return [*self._base, "run", "--isolation=chroot", *mounts, container, "--", image, *words]

    def _pip_conf(self) -> Path:
        inside = _pip_files()
        settings = [
            f"{name[4:].lower().replace('_', '-')} = {inside.get(value, value)}"
            for name, value in os.environ.items()
            if name.startswith("PIP_")
        ]
        (path := self.folder / "pip.conf").write_text("\n".join(["[global]", *settings, ""]))
        return path


def _pip_files() -> dict[str, str]:
    """Files and folders that pip's settings name, and their places inside: none is a package's own."""
    named = [value for name, value in os.environ.items() if name.startswith("PIP_") and Path(value).is_absolute()]
    return {path: f"/mnt/pip-{number}" for number, path in enumerate(named) if Path(path).exists()}


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    made = Buildah(tmp_path_factory.mktemp("images"))
    made.make_base()
    for target in TARGETS:
        made.build(target)
    yield made
    shutil.rmtree(made.folder)


@by_hand
@pytest.mark.timeout(BUILD_S)
@pytest.mark.parametrize("target", TARGETS)
def test_an_image_shows_its_help_and_the_loader_s_has_no_torch(buildah: Buildah, target: str) -> None:
    command = buildah.command(f"alexnet-{target}", "--help", volumes={})
    assert subprocess.run(command, capture_output=True, text=True).stdout.startswith(f"Usage: alexnet-{target}")
    has_torch = [*command[:-2], "python3", "-c", "import torch"]
    assert (subprocess.run(has_torch, capture_output=True).returncode == 0) == (target == "trainer")


@by_hand
@pytest.mark.timeout(BUILD_S)
def test_containers_that_share_processes_train_an_epoch_by_shared_memory(
    buildah: Buildah, packed: Path, tmp_path: Path
) -> None:
    """Each has its own root; PIDs and addresses are the host's, as a pod's containers share theirs."""
    (runs := tmp_path / "runs").mkdir()
    runs.chmod(0o777)
    serving = ("--data=/data", "--workers=1", "--bind=tcp://127.0.0.1:*", "--ready-file=/runs/ready")
    loader = buildah.command("alexnet-loader", *serving, volumes={packed: "/data:ro", runs: "/runs"})
    with subprocess.Popen(loader) as process:
        try:
            endpoint = wait_for("the loader", lambda: (runs / "ready").is_file() and (runs / "ready").read_text())
            trains = ("--cpu", "--recipe=demo", "--width=0.05", "--epochs=1", "--run=/runs/first", "--log-level=info")
            trainer = buildah.command(
                "alexnet-trainer", f"--loader={str(endpoint).strip()}", *trains, volumes={runs: "/runs"}
            )
            done = subprocess.run(trainer, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert "pixels come through shared memory" in done.stderr
            assert list((runs / "first").glob("checkpoint-*.safetensors"))
        finally:
            for pid in _below(process.pid):
                if command_line(pid).startswith("/opt/alexnet/bin/python"):  # below buildah's own processes
                    os.kill(pid, signal.SIGTERM)
                    break
            process.wait()


def _below(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from _below(child)
