"""PHP by its command line."""

from __future__ import annotations

from problems.problem import Limits
from sandbox.languages.definition import Language, by_pattern

# -n: no settings of the distribution. Errors go where they cannot be taken for output.
_PHP = (
    "/usr/bin/php8.2", "-n", "-d", "display_errors=stderr", "-d", "log_errors=0", "-d", "html_errors=0",
    "-d", "extension=ctype", "-d", "extension=iconv", "-d", "extension=mbstring", "-d", "extension=tokenizer",
)  # fmt: skip
_CHECK = "usr/share/crucible/check.php"
# PHP names the line of an error only. Its parser stops at the first token with which the text, cut after that token,
# fails otherwise than for want of more. What a later pass refuses is said to stand at its line's first token.
_CHECK_SOURCE = rb"""<?php
function stops($text) {
    try {
        PhpToken::tokenize($text, TOKEN_PARSE);
        return false;
    } catch (ParseError $error) {
        return !preg_match("/end of file|^Unclosed '.'( on line \\d+)?$/", $error->getMessage());
    }
}

function column($source, $kind, $message, $line) {
    $tokens = PhpToken::tokenize($source);
    [$low, $high] = [0, count($tokens)];  // the first token with which it stops, by halves
    while ($kind === 'Parse error' && $low < $high) {
        $middle = intdiv($low + $high, 2);
        $ends = $tokens[$middle]->pos + strlen($tokens[$middle]->text);
        stops(substr($source, 0, $ends)) ? $high = $middle : $low = $middle + 1;
    }
    $met = $tokens[$low] ?? null;
    if ($met?->line !== $line && !str_contains($message, 'end of file')) {
        $there = array_filter($tokens, fn($token) => $token->line === $line && !$token->isIgnorable());
        $met = reset($there) ?: null;
    }
    $before = substr($source, 0, $met->pos ?? strlen($source));
    return strlen($before) - strrpos("\n$before", "\n") + 1;  // in bytes
}

[, $name] = $argv;
$process = proc_open([PHP_BINARY, ...array_slice($argv, 2), '-l', $name], [2 => ['pipe', 'w']], $pipes);
$errors = stream_get_contents($pipes[2]);
$status = proc_close($process);
if (preg_match('/((?:Parse|Fatal) error): +(.*) in \\S*program\\.php on line (\\d+)/', $errors, $found)) {
    [, $kind, $message, $line] = $found;
    $column = column(file_get_contents($name), $kind, $message, (int)$line);
    $errors = "$kind: line $line: column $column: $message\n";
}
fwrite(STDERR, $errors);
exit($status);
"""

PHP = Language(
    name="php",
    packages=("php8.2-cli", "php8.2-mbstring"),
    source_name="program.php",
    compile=(*_PHP, f"/{_CHECK}", "{source}", *_PHP[1:]),
    run=(*_PHP, "-d", "memory_limit=-1", "-d", "zend.assertions=1", "{source}"),
    read_diagnostics=by_pattern(
        r"(?P<kind>Parse error|Fatal error): line (?P<line>\d+): column (?P<column>\d+): (?P<message>.*)"
    ),
    address_space=4,
    compile_floor=Limits(memory_bytes=256 << 20, num_processes=16),
    files=lambda: {_CHECK: _CHECK_SOURCE},
)
