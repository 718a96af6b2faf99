#!/usr/bin/env bash
# Lint, types and tests, after setting everything up. Arguments go to pytest: tests/run.sh -k stream
# Three files run side by side, since most tests wait; -n 0 runs one after the other, in this process (for --pdb).
set -euo pipefail
# shellcheck source=deploy/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../deploy/setup.sh"

set_up dev
cd "$ROOT"
"$VENV/bin/ruff" check
"$VENV/bin/ruff" format --check
"$VENV/bin/mypy"
exec "$VENV/bin/python" -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@"
