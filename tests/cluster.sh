#!/usr/bin/env bash
# Tests on clusters of this machine, after installing what they need; by hand, since they take minutes and root.
# Arguments go to pytest: tests/cluster.sh -k requeued
set -euo pipefail
# shellcheck source=deploy/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../deploy/setup.sh"

FILES=(
    tests/system/test_slurm.py
    tests/system/test_images.py
    tests/system/test_stopped_rank.py
)

set_up dev
cd "$ROOT"
as_root=() # read by apt_install
if [[ "$(id -u)" != 0 ]]; then as_root=(sudo -n); fi
command -v slurmctld >/dev/null || for package in munge slurmctld slurmd slurm-client; do
    say "installing $package with apt-get"
    apt_install "$package" || fail 1 "$package could not be installed; without it: tests/run.sh"
done
for package in buildah mmdebstrap; do
    command -v "$package" >/dev/null || apt_install "$package" || say "without $package no image is built"
done
ALEXNET_CLUSTERS=1 exec "$VENV/bin/python" -m pytest -v "${FILES[@]}" "$@"
