"""Ranks that are killed or stop at random moments. It takes minutes, so tests/cluster.sh runs it."""

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT


@pytest.mark.skipif("ALEXNET_CLUSTERS" not in os.environ, reason="a stopped rank is tests/cluster.sh's")
@pytest.mark.parametrize("signal", ["KILL", "STOP"])
def test_the_others_notice_it_and_all_restart_to_the_same_bits(signal: str) -> None:
    script = ROOT / "tests/bench/killed_rank.py"
    subprocess.run([sys.executable, script, "--times", "2", "--signal", signal, "--rank-timeout", "60"], check=True)
