"""PHP by its command line."""

from __future__ import annotations

from problems.problem import Limits
from sandbox.languages.definition import Language, by_pattern

# -n: no settings of the distribution. Errors go where they cannot be taken for output.
_PHP = (
    "/usr/bin/php8.2", "-n", "-d", "display_errors=stderr", "-d", "log_errors=0", "-d", "html_errors=0",
    "-d", "extension=ctype", "-d", "extension=iconv", "-d", "extension=mbstring", "-d", "extension=tokenizer",
)  # fmt: skip

PHP = Language(
    name="php",
    packages=("php8.2-cli", "php8.2-mbstring"),
    source_name="program.php",
    compile=(*_PHP, "-l", "{source}"),
    run=(*_PHP, "-d", "memory_limit=-1", "-d", "zend.assertions=1", "{source}"),
    # PHP names no column.
    read_diagnostics=by_pattern(
        r"(?:PHP )?(?P<kind>Parse error|Fatal error):\s+(?P<message>\S.*) in [^\s]*program\.php on line (?P<line>\d+)"
    ),
    address_space=4,
    compile_floor=Limits(memory_bytes=256 << 20),
)
