"""The names that user code imports: all there, documented, and light."""

import json
import subprocess
import sys
from typing import Any

import pytest

import common
from tests.support.paths import ROOT

HEAVY = ("numpy", "zmq", "msgpack", "lmdb", "torch", "click", "cv2", "turbojpeg")


def loaded_by(statement: str) -> Any:
    """Those of HEAVY that a new interpreter has loaded after the statement."""
    program = f"import json, sys; {statement}; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    command = [sys.executable, "-c", program]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60).stdout)


def test_the_client_loads_neither_torch_nor_lmdb_and_the_package_alone_loads_no_library() -> None:
    assert loaded_by("import common") == []
    assert loaded_by("from common import LoaderClient, StreamSpec, Batch, WaitClock") == ["numpy", "zmq", "msgpack"]


def test_every_public_name_can_be_imported_and_has_a_docstring_or_is_an_error() -> None:
    for name in common.__all__:
        public = getattr(common, name)
        assert public.__name__ == name
        assert public.__doc__ or issubclass(public, common.AlexNetError)


def test_a_name_that_does_not_exist_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'LoaderClients'"):
        exec("from common import LoaderClients")
