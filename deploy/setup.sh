#!/bin/sh
# Makes .venv with everything that is locked: the GPU build where an NVIDIA driver answers, the CPU build elsewhere.
# Safe to call again: it does nothing while the locks, the project file and the interpreter are the same.
#   CRUCIBLE_BUILD=cpu|gpu chooses the build; PYTHON=... chooses the interpreter (3.11 to 3.14).
set -eu
cd "$(dirname "$0")/.."
UV_VERSION=0.13.8
export UV_SYSTEM_CERTS=1 # trust what the machine trusts: company networks bring certificates of their own

fail() { echo "setup: $*" >&2; exit 1; }

is_usable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; }

find_python() {
    for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13 python3.14 /usr/bin/python3}; do
        if is_usable "$candidate"; then echo "$candidate"; return; fi
    done
    fail "no Python 3.11 to 3.14 was found; install one, or name it with PYTHON=/path/to/python3"
}

make_venv() {
    rm -rf .venv
    "$1" -m venv .venv 2>/dev/null && return
    rm -rf .venv
    "$1" -m virtualenv -q .venv 2>/dev/null && return
    fail "$1 can make no virtual environment; install the distribution's python3-venv package"
}

build=${CRUCIBLE_BUILD:-}
if [ -z "$build" ]; then
    if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then build=gpu; else build=cpu; fi
fi
lock=requirements/$build.lock
[ -f "$lock" ] || fail "CRUCIBLE_BUILD is '$build'; it is 'cpu' or 'gpu'"

want=$(cat "$lock" pyproject.toml deploy/setup.sh | sha256sum | cut -d' ' -f1)
if [ -x .venv/bin/python ] && is_usable .venv/bin/python && [ "$(cat .venv/.setup 2>/dev/null)" = "$want" ]; then exit 0; fi

echo "setup: installing the $build build into .venv"
if ! { [ -x .venv/bin/python ] && is_usable .venv/bin/python; }; then
    python=$(find_python)
    make_venv "$python"
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"

# Compiled now: where Python writes no bytecode of its own (PYTHONDONTWRITEBYTECODE, a .venv of another user), each
# process would compile what it imports anew, and an engine imports for 20 s instead of 9.
sync() { .venv/bin/uv pip sync --quiet --compile-bytecode --python .venv/bin/python "$@" "$lock"; }
if [ "$build" = gpu ]; then
    sync
elif [ -z "${PIP_FIND_LINKS:-}" ] || ! sync --find-links "$PIP_FIND_LINKS"; then
    sync --torch-backend cpu
fi
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
echo "$want" > .venv/.setup
