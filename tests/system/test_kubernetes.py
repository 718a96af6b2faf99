"""The manifests of deploy/kubernetes: fields and types, options, names that agree; keys in a Secret's volume."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import zmq

from common.errors import UsageError
from common.wire import keys
from common.wire.keys import ClientKeys, ServerKeys
from tests.support.manifests import Manifest, check, manifests, of_kind
from tests.support.paths import ROOT


def pod_of(kind: str) -> dict[str, Any]:
    spec = of_kind(kind)["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"] if kind == "JobSet" else spec
    pod: dict[str, Any] = job["template"]["spec"]
    return pod


def containers(kind: str) -> dict[str, dict[str, Any]]:
    pod = pod_of(kind)
    return {each["name"]: each for each in [*pod["initContainers"], *pod["containers"]]}


def options_of(container: dict[str, Any]) -> dict[str, Any]:
    """Options that the image's command reads from the container's args. Raises click's errors."""
    from loader.cli.serve_command import main as loader
    from trainer.cli.train_command import main as trainer

    command: click.Command = {"alexnet-loader": loader, "alexnet-trainer": trainer}[container["image"]]
    return command.make_context(container["image"], list(container["args"])).params


@pytest.mark.parametrize("manifest", manifests(), ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_each_manifest_is_of_its_schema(manifest: Manifest) -> None:
    check(manifest)


def edited(kind: str, edit: Any) -> Manifest:
    manifest = of_kind(kind)
    edit(manifest["spec"])
    return manifest


def test_misspelt_fields_and_wrong_types_are_found() -> None:
    def inside(spec: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
        return found

    mistakes = {
        "StatefulSet": [
            lambda spec: spec.update(replica=2),
            lambda spec: spec.update(replicas="2"),
            lambda spec: spec["template"]["spec"]["containers"][0]["ports"][0].update(containerPort="5555"),
        ],
        "Service": [lambda spec: spec["ports"][0].update(port="5555")],
        "JobSet": [
            lambda spec: spec["failurePolicy"].update(maxRestart=3),
            lambda spec: spec["failurePolicy"].update(maxRestarts="3"),
            lambda spec: spec["failurePolicy"]["rules"][0].pop("name"),
            lambda spec: spec["replicatedJobs"][0].update(replicas="1"),
            lambda spec: spec["replicatedJobs"][0]["template"]["spec"].update(parallelism="2"),
            lambda spec: inside(spec).update(arg=[]),
            lambda spec: inside(spec)["ports"][0].update(containerPort="29400"),
        ],
    }
    for kind, edits in mistakes.items():
        for edit in edits:
            with pytest.raises(ValueError, match=r"replica|maxRestart|name|parallelism|arg|integer|[pP]ort"):
                check(edited(kind, edit))


def test_options_are_those_of_the_commands_and_agree_with_the_rest() -> None:
    job = of_kind("JobSet")["spec"]["replicatedJobs"][0]["template"]["spec"]
    trainer = containers("JobSet")["trainer"]
    options = options_of(trainer)
    assert options["nodes"] == job["parallelism"] == job["completions"]
    assert options["ranks"] * options["gpus_per_rank"] == trainer["resources"]["limits"]["nvidia.com/gpu"]
    host, port = options["rendezvous"].split(":")
    assert host in containers("JobSet")["rendezvous"]["command"][-1]
    assert int(port) == trainer["ports"][0]["containerPort"]
    for kind in ("StatefulSet", "JobSet"):
        sidecar = containers(kind)["loader"]
        probe = sidecar.get("startupProbe") or sidecar["readinessProbe"]
        assert probe["exec"]["command"] == ["test", "-s", str(options_of(sidecar)["ready_file"])]
    with pytest.raises(click.UsageError):
        options_of({**trainer, "args": [*trainer["args"], "--no-such-option"]})


def test_the_trainer_knows_the_sidecar_and_each_loader_of_the_stateful_set() -> None:
    lines = of_kind("ConfigMap")["data"]["loaders.txt"].splitlines()
    loaders, service = of_kind("StatefulSet"), of_kind("Service")
    assert loaders["spec"]["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= loaders["spec"]["template"]["metadata"]["labels"].items()
    name, port = loaders["metadata"]["name"], service["spec"]["ports"][0]["port"]
    ports = range(port, port + options_of(containers("StatefulSet")["loader"])["services"])
    hosts = [f"tcp://{name}-{pod}.{name}:{each}" for pod in range(loaders["spec"]["replicas"]) for each in ports]
    assert [each["containerPort"] for each in containers("StatefulSet")["loader"]["ports"]] == [*ports, 9400]
    assert [line.split()[0] for line in lines] == [options_of(containers("JobSet")["loader"])["bind"], *hosts]
    assert f":{port}" in options_of(containers("StatefulSet")["loader"])["bind"]


def test_every_mount_has_its_volume_and_every_secret_its_command_in_the_guide() -> None:
    guide = (ROOT / "deploy" / "README.md").read_text()
    for kind in ("StatefulSet", "JobSet"):
        volumes = {volume["name"]: volume for volume in pod_of(kind)["volumes"]}
        mounted = {mount["name"] for each in containers(kind).values() for mount in each.get("volumeMounts", [])}
        assert mounted == set(volumes)
        secrets = [volume["secret"]["secretName"] for volume in volumes.values() if "secret" in volume]
        assert [name for name in secrets if f"create secret generic {name} " not in guide] == []


def test_loader_and_trainer_of_a_pod_can_map_each_other_s_memory() -> None:
    pod = pod_of("JobSet")
    assert pod["shareProcessNamespace"] is True
    users = [each.get("securityContext", {}).get("runAsUser") for each in containers("JobSet").values()]
    assert set(users) == {None}
    assert pod["securityContext"]["runAsUser"] > 0


def test_wrong_options_fail_the_set_and_a_drained_node_restarts_all_of_it() -> None:
    spec = of_kind("JobSet")["spec"]
    wrong, drained = spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert wrong["onExitCodes"] == {"containerName": "trainer", "operator": "In", "values": [2]}
    assert drained["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert [rule["action"] for rule in spec["failurePolicy"]["rules"]] == [
        "FailJobSet",
        "RestartJobSetAndIgnoreMaxRestarts",
    ]


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The volumes of both Secrets, as kubelet mounts them in a pod with fsGroup: 0400 became 0440, and links."""
    keys.make(tmp_path / "keys")
    files = {
        "loader": [tmp_path / "keys/server.key_secret", *(tmp_path / "keys/clients").iterdir()],
        "trainer": [tmp_path / "keys/server.key", tmp_path / "keys/client.key_secret"],
    }
    for secret, paths in files.items():
        (data := tmp_path / "secret" / secret / "..2026").mkdir(parents=True)
        (data.parent / "..data").symlink_to(data.name)
        for path in paths:
            shutil.copy(path, data)
            (data / path.name).chmod(0o440)
            (data.parent / path.name).symlink_to(f"..data/{path.name}")
        data.parent.chmod(0o1777)
    return tmp_path / "secret"


def test_keys_in_a_secret_s_volume_are_refused(secrets: Path) -> None:
    with pytest.raises(UsageError, match="can be written by others"):
        ClientKeys.read(secrets / "trainer")
    (secrets / "trainer").chmod(0o755)
    with pytest.raises(UsageError, match="a secret key that others may read"):
        ClientKeys.read(secrets / "trainer")


@pytest.mark.parametrize("kind", ["StatefulSet", "JobSet"])
def test_keys_are_accepted_from_where_the_first_container_copies_them(kind: str, secrets: Path, tmp_path: Path) -> None:
    copying, copies = containers(kind)["keys"], tmp_path / "copies"
    copies.mkdir()
    (script,) = copying["args"]
    script = script.replace(" /keys", f" {copies}").replace("/secret/", f"{secrets}/")
    subprocess.run([*copying["command"], script], check=True, timeout=60)
    server = ServerKeys.read(copies / "loader")
    if kind == "JobSet":
        assert keys.public_key(server.allowed / "client.key") == zmq.curve_public(
            ClientKeys.read(copies / "trainer").secret
        )
    for name in ("loader", "trainer"):
        for each in containers(kind).values():
            if each["name"] == name:
                assert f"--keys=/keys/{name}" in each["args"]
