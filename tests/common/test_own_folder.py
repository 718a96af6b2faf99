import os
import tempfile
from pathlib import Path

import pytest

from common.own_folder import own_folder


def test_a_folder_left_by_a_killed_command_is_deleted_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, foreign, fresh = (tmp_path / name for name in ("alexnet-report-left", "other-left", "alexnet-report-fresh"))
    for folder in (left, foreign, fresh):
        folder.mkdir()
        (folder / "log").touch()
    for folder in (left, foreign):
        os.utime(folder, (0, 0))
    with own_folder("alexnet-report-") as used:
        os.utime(used, (0, 0))
        with own_folder("alexnet-report-") as another:
            assert set(tmp_path.iterdir()) == {used, another, foreign, fresh}
    assert set(tmp_path.iterdir()) == {foreign, fresh}
