#!/usr/bin/env bash
# Lint, types and tests, after setting everything up. Arguments go to pytest: tests/run.sh -k stream
# Two files run side by side; -n 4 runs four, -n 0 one after the other, in this process (for --pdb).
set -euo pipefail
# shellcheck source=deploy/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../deploy/setup.sh"

set_up dev
cd "$ROOT"
"$VENV/bin/ruff" check
"$VENV/bin/ruff" format --check
"$VENV/bin/mypy"
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
