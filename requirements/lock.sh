#!/bin/sh
# Writes requirements/cpu.lock and requirements/gpu.lock. Run it after a change of the dependencies in pyproject.toml.
# No path and no index address enters a lock. torch's CPU build carries no hash: the folder of PIP_FIND_LINKS and the
# CPU index of uv's --torch-backend hold different files of one version; every other package is pinned by its hash.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
compile() {
    "$uv" pip compile pyproject.toml --extra dev "$@" --override requirements/overrides.txt --universal \
        --python-version 3.11 --no-emit-find-links --no-emit-index-url --no-annotate --generate-hashes --upgrade --quiet \
        --custom-compile-command "requirements/lock.sh"
}
strip_torch_hashes() {
    awk '/^torch==/ { sub(/ \\$/, ""); print; skip = 1; next } skip && /^ +--hash/ { next } { skip = 0; print }'
}
if [ -n "${PIP_FIND_LINKS:-}" ]; then
    UV_FIND_LINKS=$PIP_FIND_LINKS compile --extra cpu | strip_torch_hashes > requirements/cpu.lock.new
else
    compile --extra cpu --torch-backend cpu | strip_torch_hashes > requirements/cpu.lock.new
fi
mv requirements/cpu.lock.new requirements/cpu.lock
compile --extra gpu > requirements/gpu.lock.new
mv requirements/gpu.lock.new requirements/gpu.lock
