"""Roots and images of languages: found by definition, missing or stale with a way out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.errors import ImageMissingError, SandboxError
from sandbox.images import dockerfile, main
from sandbox.languages import LANGUAGES, language_of
from sandbox.roots import build_root, find_root, roots_folder

CPP = LANGUAGES["cpp"]


@pytest.fixture(autouse=True)
def no_roots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    roots_folder().mkdir(parents=True)


def test_a_missing_and_a_stale_root_name_the_command_that_builds_them() -> None:
    with pytest.raises(ImageMissingError, match=r"root for cpp is missing: build it with `make images LANGUAGES=cpp`"):
        find_root(CPP)
    (roots_folder() / "cpp-0123456789ab-0123456789ab").mkdir()
    with pytest.raises(ImageMissingError, match=r"root for cpp is stale: build it with `make images LANGUAGES=cpp`"):
        find_root(CPP)
    fitting = roots_folder() / f"cpp-{CPP.definition_hash}-0123456789ab"
    fitting.mkdir()
    assert find_root(CPP) == fitting


def test_what_changes_a_root_changes_its_hash_and_what_does_not_does_not() -> None:
    assert replace(CPP, packages=("g++", "make")).definition_hash != CPP.definition_hash
    assert replace(CPP, dropped=()).definition_hash != CPP.definition_hash
    assert replace(CPP, compile=("/usr/bin/g++", "-O3")).definition_hash == CPP.definition_hash
    assert len({language.definition_hash for language in LANGUAGES.values()}) == len(LANGUAGES)


def test_a_machine_without_the_tools_is_told_another_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match=r"apt-get is missing, .* --dockerfile cpp"):
        build_root(CPP)


def test_the_dockerfile_has_the_definition_s_packages_and_label() -> None:
    text = dockerfile(CPP)
    assert "install --yes --no-install-recommends python3 g++" in text
    assert f"LABEL crucible.definition={CPP.definition_hash}" in text


def test_a_dockerfile_makes_all_that_the_definition_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dockerfile", "java"]) == 0
    lines = capsys.readouterr().out.splitlines()
    java = LANGUAGES["java"]
    commands = [" ".join(words).replace("{root}", "") for words in (*java.finish, *java.finish_inside)]
    assert [line.removeprefix("RUN ") for line in lines[-len(commands) - 2 : -2]] == commands
    assert any("crucible.jar" in command for command in commands)


def test_pythons_image_is_by_no_dockerfile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dockerfile", "python"]) == 1
    assert "`make images` needs no registry" in capsys.readouterr().err


def test_an_unknown_language_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"language 'cobol' cannot be run here; known: python, .*java.*bash"):
        language_of("cobol")
