"""The file that names loaders: reread when it changes, refused if it is bad."""

import os
from pathlib import Path

import pytest

from common.client.endpoints import LOOK_S, EndpointsFile
from common.errors import UsageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "loaders"


def test_a_line_names_an_endpoint_and_the_rest_is_for_people(path: Path) -> None:
    path.write_text("# the rack\n\n tcp://10.0.0.5:5555 # since Tuesday\nipc:///run/loader\ntcp://[::1]:5555\n")
    assert EndpointsFile(path).changed(0.0) == ["tcp://10.0.0.5:5555", "ipc:///run/loader", "tcp://[::1]:5555"]


def test_what_did_not_change_is_not_told_again_and_not_looked_at_all_the_time(path: Path) -> None:
    path.write_text("tcp://a:1")
    file = EndpointsFile(path)
    assert file.changed(0.0) == ["tcp://a:1"]
    assert file.changed(LOOK_S) is None
    path.write_text("tcp://b:22")
    assert file.changed(LOOK_S * 1.5) is None
    assert file.changed(LOOK_S * 2) == ["tcp://b:22"]


def test_a_file_of_the_same_size_and_time_is_another(path: Path) -> None:
    path.write_text("tcp://a:1")
    before, file = path.stat(), EndpointsFile(path)
    file.changed(0.0)
    path.write_text("tcp://b:1")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.changed(LOOK_S) == ["tcp://b:1"]


def test_a_file_moved_into_its_place_is_another(path: Path) -> None:
    path.write_text("tcp://a:1")
    file = EndpointsFile(path)
    file.changed(0.0)
    new = path.with_name("new")
    new.write_text("tcp://b:1")
    new.replace(path)
    assert file.changed(LOOK_S) == ["tcp://b:1"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tcp://a:1\nnonsense", r"line 2: 'nonsense' is not like tcp://host:5555 \(--loaders\)"),
        ("tcp://a:1, tcp://b:1", "line 1"),
        ("tcp://a", "line 1"),
        ("# nobody\n", "names no loader"),
        ("", "names no loader"),
    ],
)
def test_a_bad_file_is_said_once_and_the_next_change_is_read(path: Path, text: str, says: str) -> None:
    path.write_text(text)
    file = EndpointsFile(path)
    with pytest.raises(UsageError, match=says):
        file.changed(0.0)
    assert file.changed(LOOK_S) is None
    path.write_text("tcp://a:1 # mended")
    assert file.changed(2 * LOOK_S) == ["tcp://a:1"]


def test_a_missing_file_is_said_once_too(path: Path) -> None:
    file = EndpointsFile(path)
    with pytest.raises(UsageError, match="cannot be read"):
        file.changed(0.0)
    assert file.changed(LOOK_S) is None
    path.write_text("tcp://a:1")
    assert file.changed(2 * LOOK_S) == ["tcp://a:1"]
