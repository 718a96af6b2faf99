"""Data that many tests read: small packed data sets of drawn pictures, made once."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, settings

# No test fails because a machine is slow. In CI the examples are the same each time; elsewhere new ones are looked for.
settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed data set of drawn pictures: 150 train, 40 val."""
    from loader.pack_command import main

    data = tmp_path_factory.mktemp("packed") / "data"
    result = CliRunner().invoke(main, ["--demo", str(data), "--demo-train", "150", "--demo-val", "40", "--jobs", "2"])
    assert result.exit_code == 0, result.output
    return data
