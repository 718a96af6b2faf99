# shellcheck shell=bash
# Shared by the scripts, to be sourced: `set_up [dev]` makes .venv with the versions of deploy/constraints.txt, and needs
# no root. A second call with nothing changed does nothing. pip's options (an index, a proxy) come from its own settings.
# Every Python runs with -P: nothing in the current directory is imported.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
PROGRAM="$(basename "$0")"

# Messages neither end nor hold up a script: its terminal may be closed, its log full, its pipe not read.
trap '' PIPE
{ : >&1; } 2>/dev/null || exec >/dev/null
{ : >&2; } 2>/dev/null || exec 2>/dev/null

say() { in_time printf '%s: %s\n' "$PROGRAM" "$*" >&2 2>/dev/null || true; }

in_time() { if command -v timeout >/dev/null; then timeout 2 "$@"; else "$@"; fi; }

fail() {
    local code="$1"
    shift
    say "error: $*"
    exit "$code"
}

[[ "$(uname)" == Linux ]] || fail 2 "AlexNet runs on Linux only, and this is $(uname)"

# Run a command that gets SIGTERM if this script dies, kill -9 included.
guarded() { setpriv --pdeathsig TERM -- "$@"; }

set_up() {
    local extra="${1:-}" stamp wanted
    stamp="$VENV/installed${extra:+-$extra}"
    wanted="$(stamp_text)"
    command -v setpriv flock >/dev/null || fail 1 "setpriv or flock is missing; install util-linux"
    lock
    if [[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]]; then
        make_venv
        want_turbojpeg
        install_packages "$extra"
        printf '%s\n' "$wanted" | tee "$VENV/installed" >"$stamp"
    fi
    unlock
}

# One set-up of a checkout at a time. The lock is on the directory itself, so nothing is left behind.
lock() {
    exec 9<"$ROOT"
    flock -n 9 || { say "waiting for another set-up of this checkout" && flock 9; }
}

unlock() { exec 9<&-; }

# Equal as long as a new set-up would install the same; a moved checkout is another one.
stamp_text() { (echo "$ROOT" && cat "$ROOT/pyproject.toml" "$ROOT/deploy/constraints.txt") | sha256sum; }

make_venv() {
    if "$VENV/bin/python" -Pc 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then return; fi
    local python
    python="$(find_python 'venv, ensurepip')" || python="$(find_python sys)" ||
        fail 1 "no Python 3.11 or newer; on Debian or Ubuntu: sudo apt-get install python3 python3-venv"
    "$python" -Pc 'import venv, ensurepip' 2>/dev/null ||
        fail 1 "$python has no venv module; on Debian or Ubuntu: sudo apt-get install python3-venv"
    say "making .venv with $("$python" --version)"
    guarded "$python" -P -m venv --clear "$VENV" >&2 || fail 1 "$python could not make $VENV; its reason is above"
}

# The first Python, 3.11 or newer, that has these modules.
find_python() {
    local name
    for name in python3.11 python3 python3.12 python3.13 python3.14; do
        if "$name" -Pc "import sys, $1; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

want_turbojpeg() {
    has_turbojpeg && return
    local as_root=()
    if [[ "$(id -u)" != 0 ]]; then as_root=(sudo -n); fi
    if command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null; then
        say "installing libturbojpeg0, the JPEG codec, with apt-get"
        apt_install libturbojpeg0 || apt_install libturbojpeg || true # the name in Debian, in some Ubuntus
    fi
    has_turbojpeg || say "libturbojpeg is not installed: the codec bundled with simplejpeg serves, with the same pixels"
}

has_turbojpeg() {
    "$VENV/bin/python" -Pc 'import ctypes.util, sys; sys.exit(not ctypes.util.find_library("turbojpeg"))'
}

apt_install() {
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq)
    "${apt[@]}" install "$1" >/dev/null 2>&1 || { "${apt[@]}" update && "${apt[@]}" install "$1"; } >/dev/null 2>&1
}

# Of pip's output only the downloads and the unpacking are shown, which take long.
install_packages() {
    say "installing into .venv; torch is large, so a first time takes some minutes"
    guarded env PYTHONWARNINGS=ignore "$VENV/bin/python" -P -m pip install --disable-pip-version-check --no-input --progress-bar off \
        -c "$ROOT/deploy/constraints.txt" -e "$ROOT[${1:-loader,trainer,report}]" \
        > >(sed -un -e 's/^ *Downloading \([^- ]*-[^- ]*\)[^ ]* (/  \1 (/p' -e 's/^Installing collected.*/  unpacking/p' >&2 || cat >/dev/null) ||
        fail 1 "pip could not install; its reason is above"
}
