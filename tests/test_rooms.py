"""Each room imports with the packages it must not know blocked, and the rooms are what an installation would hold."""

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BANNED = {
    "problems": ("torch", "ray", "vllm", "docker", "transformers", "sandbox", "learner", "actors", "cluster"),
    "sandbox": ("torch", "ray", "vllm", "transformers", "learner", "actors", "cluster"),
    "learner": ("ray", "vllm", "docker", "sandbox", "actors", "cluster"),
    "actors": (
        "ray",
        "cluster",
    ),  # docker comes in through sandbox; that actors does not name it is the linter's to say
}
# What a room may leave out while nothing that uses it is called: an install without extras must import these two.
WITHOUT_EXTRAS = {"problems": ("tokenizers",), "sandbox": ("tokenizers",)}

_IMPORT_ALL = """
import importlib, pkgutil, sys

room, banned, skipped = sys.argv[1], set(sys.argv[2].split(",")), set(sys.argv[3].split(","))

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in banned:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
package = importlib.import_module(room)
names = [module.name for module in pkgutil.walk_packages(package.__path__, room + ".")]
for name in names:
    if name not in skipped and not name.rpartition(".")[2].startswith("__"):
        importlib.import_module(name)
present = banned & {name.partition(".")[0] for name in sys.modules}
assert not present, f"{room} brought in {present}"
print(len(names))
"""


def import_all(room: str, banned: tuple[str, ...], skipped: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Import every module of a room in a child process in which the banned packages cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, room, ",".join(banned), ",".join(skipped)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize("room", list(BANNED))
def test_room_imports_with_its_banned_packages_blocked(room: str):
    if room in ("learner", "actors"):
        pytest.importorskip("torch")
    finished = import_all(room, BANNED[room])
    assert finished.returncode == 0, finished.stderr[-2000:]


@pytest.mark.parametrize("room", list(WITHOUT_EXTRAS))
def test_room_of_the_base_install_imports_without_any_extra(room: str):
    finished = import_all(room, BANNED[room] + WITHOUT_EXTRAS[room], ("problems.tokenizer",))
    assert finished.returncode == 0, finished.stderr[-2000:]


def test_blocked_package_is_noticed():
    finished = import_all("problems", ("pydantic",))
    assert finished.returncode != 0
    assert "pydantic is blocked" in finished.stderr


def distributed_files() -> set[Path]:
    """Files of the rooms that a wheel would hold, as pyproject.toml says."""
    setuptools = pytest.importorskip("setuptools")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = [
        ROOT.joinpath(*name.split("."))
        for name in setuptools.find_packages(str(ROOT), include=settings["packages"]["find"]["include"])
    ]
    patterns = ["*.py", *settings["package-data"]["*"]]
    return {path for folder in folders for pattern in patterns for path in folder.glob(pattern)}


def test_every_file_of_code_is_in_the_distribution():
    files = distributed_files()
    for room in ("problems", "sandbox", "learner", "actors", "cluster"):
        missing = set((ROOT / room).rglob("*.py")) - files
        assert not missing, f"not in the wheel, for want of an __init__.py: {missing}"


def test_problems_and_sandbox_work_from_an_installation(tmp_path: Path):
    for path in distributed_files():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    command = "import problems.datasets, sandbox; print(problems.__file__); print(sandbox.__file__)"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "PYTHONPATH": str(tmp_path)
    }
    finished = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert all(line.startswith(str(tmp_path)) for line in finished.stdout.split())


def test_the_rooms_are_ours_and_not_somebody_elses():
    for room in ("problems", "sandbox"):
        assert Path(str(importlib.import_module(room).__file__)).parent.parent == ROOT
