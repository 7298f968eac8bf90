"""Roots of the languages: the closure of a few Debian packages, unpacked into a folder by any user.

No image registry and no root rights are needed: ``apt-get`` resolves and downloads into folders of our own as if
nothing were installed, ``dpkg-deb`` and ``tar`` unpack. No script of a package is run; what programs need of what such
scripts do stands in the language's definition. The same tree is the root of an embedded slot and the content of a
Docker image.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

from sandbox.errors import ImageMissingError, SandboxError
from sandbox.languages.definition import Language
from sandbox.resident import lockdown

PYTHON = "/usr/bin/python3"
"""The interpreter of the resident server in each root."""
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_DROPPED = (
    "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/share/bug",
    "usr/share/i18n", "usr/share/zoneinfo", "usr/lib/*/gconv", "usr/lib/*/perl*", "usr/share/perl*",
    "usr/lib/*/libperl*", "usr/lib/python3*/test", "usr/lib/python3*/idlelib", "usr/lib/python3*/lib2to3",
    "var", "boot", "home", "root",
)  # fmt: skip
_PASSWD = "root:x:0:0:root:/:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
_COMPILE_LIBRARY = (PYTHON, "-m", "compileall", "-q", "-s", "{root}", "-p", "/", "{root}/usr/lib/python3*")
_TAIL = 400


def roots_folder() -> Path:
    """Where roots are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "crucible", "roots")


def build_command(language: Language) -> str:
    return f"make images LANGUAGES={language.name}"


def find_root(language: Language) -> Path:
    """The newest root of this definition. Raises ImageMissingError, naming the command that builds it."""
    folder = roots_folder()
    fitting = sorted(
        folder.glob(f"{language.name}-{language.definition_hash}-*"), key=lambda path: path.stat().st_mtime
    )
    if fitting:
        return fitting[-1]
    state = "is stale" if any(folder.glob(f"{language.name}-*-*")) else "is missing"
    raise ImageMissingError(f"the sandbox root for {language.name} {state}: build it with `{build_command(language)}`")


def build_root_if_missing(language: Language) -> Path:
    """A root of the definition, whatever its packages' versions. Raises as ``build_root`` does."""
    try:
        return find_root(language)
    except ImageMissingError:
        return build_root(language)


def build_root(language: Language) -> Path:
    """The root of the definition with the packages' present versions; built if it is not there.

    Raises:
        SandboxError: without apt-get and dpkg-deb, and where packages cannot be had; the message names the way out.
    """
    folder = roots_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for tool in ("apt-get", "dpkg-deb", "tar"):
        if shutil.which(tool) is None:
            raise SandboxError(
                f"{tool} is missing, so the root for {language.name} cannot be made here: use the docker backend with "
                f"an image by `python -m sandbox.images --dockerfile {language.name} | docker build -`"
            )
    with _only_one(folder / f".lock-{language.name}"), tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as work:
        apt = _Apt(Path(work))
        packages = apt.resolve([*language.packages, "python3"])
        versions = hashlib.sha256("\n".join(sorted(packages)).encode()).hexdigest()[:12]
        root = folder / f"{language.name}-{language.definition_hash}-{versions}"
        if not root.exists():
            fresh = Path(work, "root")
            _unpack(apt.download([*language.packages, "python3"]), fresh)
            _finish(language, fresh)
            fresh.rename(root)
        return root


@contextlib.contextmanager
def _only_one(lock: Path) -> Generator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Apt:
    """apt-get as if nothing were installed, with all its state in one folder; its sources are the machine's."""

    def __init__(self, work: Path) -> None:
        self._archives = work / "cache" / "archives"
        for folder in (work / "state" / "lists" / "partial", self._archives / "partial"):
            folder.mkdir(parents=True)
        status = work / "status"
        status.touch()
        places = {"Dir::State": work / "state", "Dir::Cache": work / "cache", "Dir::State::status": status}
        self._options = [f"-o{name}={place}" for name, place in places.items()]
        # As root, apt would hand the download to a user who may not be able to enter the folder.
        self._options += ["-oDebug::NoLocking=1", "-oAPT::Sandbox::User=", "-y", "--no-install-recommends"]
        self._run("update")

    def resolve(self, names: list[str]) -> list[str]:
        """File names, with versions, of all packages that these need."""
        lines = self._run("install", "--print-uris", *names).splitlines()
        return [line.split()[1] for line in lines if line.startswith("'")]

    def download(self, names: list[str]) -> list[Path]:
        self._run("install", "--download-only", *names)
        return sorted(self._archives.glob("*.deb"))

    def _run(self, *words: str) -> str:
        done = subprocess.run(["apt-get", "-q", *self._options, *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SandboxError(f"apt-get {words[0]} failed; are the package sources reachable? {done.stderr[-_TAIL:]}")
        return done.stdout


def _unpack(archives: list[Path], root: Path) -> None:
    # Some packages still own files in /bin or /lib, which are links in a present system.
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for archive in archives:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as source:
            words = ["tar", "-C", root, "-x", "--keep-directory-symlink", "--no-same-owner", "-f", "-"]
            done = subprocess.run(words, stdin=source.stdout, capture_output=True, text=True, check=False)
        if done.returncode or source.returncode:
            raise SandboxError(f"{archive.name} could not be unpacked: {done.stderr[-_TAIL:]}")
        archive.unlink()


def _finish(language: Language, root: Path) -> None:
    for pattern in (*_DROPPED, *language.dropped):
        for path in map(Path, glob.glob(str(root / pattern))):
            _remove(path)
    for place, target in language.links.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).symlink_to(target)
    for folder in ("dev", "proc", "sys", "tmp", "etc"):
        (root / folder).mkdir(exist_ok=True)
    (root / "etc" / "passwd").write_text(_PASSWD)
    for place, content in language.files().items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(content)
    _take_privileges(root)
    for words in (_COMPILE_LIBRARY, *language.finish):
        _run_in(root, words)
    for words in language.finish_inside:
        _run_inside(root, words, language.environment)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)  # a link to a folder leads to it twice


def _take_privileges(root: Path) -> None:
    """No set-uid program, and nothing that only its owner could read."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                continue
            readable = 0o555 if mode & 0o100 else 0o444
            path.chmod((stat.S_IMODE(mode) & 0o755) | readable | 0o200)


def _run_in(root: Path, words: tuple[str, ...]) -> None:
    """Runs a program of the root by the root's own loader and libraries: nothing of the machine's is mixed in."""
    loader = next(iter(glob.glob(f"{root}/lib64/ld-linux*") + glob.glob(f"{root}/lib/ld-linux*")), None)
    if loader is None:
        raise SandboxError(f"the root {root.name} has no loader")
    libraries = [*glob.glob(f"{root}/usr/lib/*-linux-gnu"), *glob.glob(f"{root}/usr/lib/jvm/*/lib")]
    rest: list[str] = []
    for word in words[1:]:
        word = word.replace("{root}", str(root))
        rest += glob.glob(word) if "*" in word else [word]
    environment = {"PYTHONHOME": f"{root}/usr", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    command = [loader, "--library-path", ":".join(libraries), f"{root}{words[0]}", *rest]
    _run_to_end(root, words[0], command, environment)


def _run_inside(root: Path, words: tuple[str, ...], environment: dict[str, str]) -> None:
    """Runs a program with the root as its own; an ordinary user's needs a user namespace, or is left out."""

    def enter() -> None:
        if os.geteuid() != 0:
            lockdown.unshare(lockdown.CLONE_NEWUSER)
        os.chroot(root)
        os.chdir("/")

    with contextlib.suppress(subprocess.SubprocessError):  # what ``enter`` raises arrives as this
        _run_to_end(root, words[0], list(words), environment, enter)


def _run_to_end(
    root: Path, name: str, command: list[str], environment: dict[str, str], enter: Callable[[], None] | None = None
) -> None:
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=enter,
    )
    if done.returncode != 0:
        raise SandboxError(f"{name} failed in the root {root.name}: {(done.stderr or done.stdout)[-_TAIL:]}")
