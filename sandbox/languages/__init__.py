"""The languages that programs may be written in."""

from __future__ import annotations

from sandbox.languages.bash import BASH
from sandbox.languages.cpp import CPP
from sandbox.languages.csharp import CSHARP
from sandbox.languages.definition import Language
from sandbox.languages.java import JAVA
from sandbox.languages.javascript import JAVASCRIPT
from sandbox.languages.php import PHP
from sandbox.languages.typescript import TYPESCRIPT

PYTHON = "python"
"""Run by the slots' own interpreter, which forks faster than any program starts: it needs no definition."""

LANGUAGES: dict[str, Language] = {
    language.name: language for language in (JAVA, CPP, JAVASCRIPT, TYPESCRIPT, PHP, CSHARP, BASH)
}
"""By name, all but Python."""


def language_of(name: str) -> Language:
    """Raises ValueError for a language that is not known here."""
    try:
        return LANGUAGES[name]
    except KeyError:
        raise ValueError(f"language {name!r} cannot be run here; known: {', '.join([PYTHON, *LANGUAGES])}") from None
