"""Bash, with the small tools that scripts lean on."""

from __future__ import annotations

from problems.problem import Limits
from sandbox.languages.definition import Language, by_pattern

_CHECK = "usr/share/crucible/check.sh"
# Bash names the line of an error and what it met there. A text that is cut fails in the same way from the first place
# on that holds what was met; what is never closed was opened at the last place before which nothing was open.
_CHECK_SOURCE = rb"""LC_ALL=C  # columns are bytes
errors=$(/usr/bin/bash -n "$1" 2>&1)
status=$?
if ((status)) && [[ $errors =~ ^[^:]*:\ line\ ([0-9]+):\ ([^$'\n']*) ]]; then
    number=${BASH_REMATCH[1]} message=${BASH_REMATCH[2]} column=0
    [[ $message == *'end of file' ]] && column=1
    mapfile -t lines <"$1"
    line=${lines[number - 1]-} before=
    ((number > 1)) && printf -v before '%s\n' "${lines[@]:0:number-1}"
    fails_by() { [[ $(/usr/bin/bash -nc "$before$1" 2>&1) == *"$2"* ]]; }
    if [[ $message =~ (near unexpected token|looking for matching)\ \`(.+)\' ]]; then
        how=${BASH_REMATCH[1]} token=${BASH_REMATCH[2]} places=() rest=$line at=0
        sought=$token
        [[ $how == looking* ]] && sought=${token/\)/(} sought=${sought/\}/\{}
        while [[ $rest == *"$sought"* ]] && ((${#places[@]} < 100)); do
            head=${rest%%"$sought"*}
            places+=($((at + ${#head})))
            ((at += ${#head} + ${#sought}))
            rest=${line:at}
        done
        if [[ $token == newline ]]; then
            column=$((${#line} + 1))
        elif [[ $how == near* ]]; then
            for place in "${places[@]}"; do
                fails_by "${line:0:place}$token" "$how \`$token'" && column=$((place + 1)) && break
            done
        else
            for ((i = ${#places[@]} - 1; i >= 0; i--)); do
                column=$((places[i] + 1))
                fails_by "${line:0:places[i]}" "$how" || break
            done
        fi
    fi
    errors="${errors%%:*}: line $number: column $column: $message"
fi
[[ -z $errors ]] || printf '%s\n' "$errors" >&2
exit $status
"""

BASH = Language(
    name="bash",
    packages=("bash", "coreutils", "grep", "sed", "gawk", "bc", "findutils"),
    source_name="program.sh",
    compile=("/usr/bin/bash", f"/{_CHECK}", "{source}"),
    run=("/usr/bin/bash", "{source}"),
    read_diagnostics=by_pattern(
        r"program\.sh: line (?P<line>\d+): column (?P<column>\d+): "
        r"(?P<message>(?P<kind>syntax error|unexpected EOF|unexpected argument).*)"
    ),
    address_space=4,
    num_threads=32,
    compile_floor=Limits(memory_bytes=64 << 20, num_processes=16),
    links={"usr/bin/awk": "gawk", "usr/bin/sh": "bash"},
    files=lambda: {_CHECK: _CHECK_SOURCE},
)
