"""Data that many tests read: small packed data sets of drawn pictures, made once."""

from pathlib import Path

import pytest
from click.testing import CliRunner


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed data set of drawn pictures: 150 train, 40 val."""
    from loader.pack_command import main

    data = tmp_path_factory.mktemp("packed") / "data"
    result = CliRunner().invoke(main, ["--demo", str(data), "--demo-train", "150", "--demo-val", "40", "--jobs", "2"])
    assert result.exit_code == 0, result.output
    return data
