"""Manifests of deploy/kubernetes, checked against the schemas of Kubernetes and of JobSet."""

import copy
import functools
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
KUBERNETES = "1.33"  # the first whose sidecars are stable

Manifest = dict[str, Any]


def manifests() -> list[Manifest]:
    """Copies of them all, for a test to edit."""
    return copy.deepcopy(_read())


@functools.cache
def _read() -> list[Manifest]:
    return [each for path in sorted(FOLDER.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]


def of_kind(kind: str) -> Manifest:
    (found,) = [each for each in manifests() if each["kind"] == kind]
    return found


def check(manifest: Manifest) -> None:
    """Raise ValueError if the schema of its kind has no such field, or another type for it."""
    if manifest["kind"] == "JobSet":
        for job in _check_set(manifest):
            check({"apiVersion": "batch/v1", "kind": "Job", **job})
        return
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise ValueError(error.message) from None


def _check_set(manifest: Manifest) -> list[Manifest]:
    """Check all but the templates of its jobs, and return these."""
    outside = copy.deepcopy(manifest)
    templates = [job.pop("template") for job in outside["spec"]["replicatedJobs"]]
    for job in outside["spec"]["replicatedJobs"]:
        job["template"] = {}
    known = JobsetV1alpha2JobSet.model_validate(outside).model_dump(by_alias=True, exclude_unset=True)
    if known != outside:  # the model leaves out what it does not know
        raise ValueError(f"fields that JobSet has not: {sorted(set(_fields(outside)) - set(_fields(known)))}")
    return templates


def _fields(value: object, path: str = "") -> Iterator[str]:
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        yield f"{path}.{key}"
        yield from _fields(inner, f"{path}.{key}")
