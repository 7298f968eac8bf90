# Attacks are programs on one line each.
# ruff: noqa: E501
"""Eating what there is: each ends in a limit or an error of the program's own, and the slot goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from problems.problem import Limits
from sandbox import Outcome

from ..conftest import require_bounded_processes
from .conftest import COMPILE, ERROR, MEMORY, OUTPUT, TIME, WRONG, Assault

LIMITS = Limits(cpu_s=1.0, wall_s=2.0, memory_bytes=128 << 20, num_processes=16, output_bytes=1 << 20)
PATIENT = {
    "memory that grows in the judge": replace(LIMITS, cpu_s=10.0, wall_s=20.0)
}  # a slow machine needs 1.06 s of CPU
EATERS = {
    "fork bomb": ({TIME, MEMORY}, "import os\ndef f(x):\n    while True:\n        try: os.fork()\n        except OSError: pass"),
    "fork bomb of sleepers": ({TIME, MEMORY}, "import os, time\ndef f(x):\n    while True:\n        try:\n            if os.fork() == 0: time.sleep(99)\n"
    "        except OSError: time.sleep(99)"),
    "thread bomb": ({ERROR}, "import threading, time\ndef f(x):\n    while True: threading.Thread(target=time.sleep, args=(99,)).start()"),
    "memory at once": ({MEMORY}, "def f(x): return len(bytearray(10 << 30))"),
    "memory bit by bit": ({MEMORY}, "def f(x):\n    a = []\n    while True: a.append('x' * 100_000)"),
    "memory by many": ({ERROR, MEMORY, TIME}, "import os, time\ndef f(x):\n    for _ in range(8): os.fork()\n    a = bytearray(100 << 20)\n    time.sleep(99)"),
    "memory that grows in the judge": ({OUTPUT, MEMORY}, "def f(x): return [[] for _ in range(1_000_000)]"),
    "a map of anonymous memory": ({MEMORY, ERROR}, "import mmap\ndef f(x):\n    m = mmap.mmap(-1, 4 << 30)\n    for i in range(0, 4 << 30, 4096): m[i] = 1"),
    "many maps shared with children": ({MEMORY, ERROR}, "import mmap, os, time\ndef f(x):\n    a = []\n    while True:\n        m = mmap.mmap(-1, 8 << 20)\n"
    "        m.write(b'x' * (8 << 20))\n        a.append(m)"),
    "full disk": ({ERROR, MEMORY}, "def f(x):\n    for i in range(10**9): open(f'f{i}', 'wb').write(b'x' * (1 << 20))"),
    "inodes": ({ERROR}, "import os\ndef f(x):\n    for i in range(10**9): os.mkdir(f'd{i}')"),
    "a sparse file": ({ERROR}, "import os\ndef f(x):\n    fd = os.open('sparse', os.O_CREAT | os.O_RDWR)\n    os.ftruncate(fd, 1 << 50)"),
    "shared memory": ({ERROR}, "def f(x):\n    for i in range(10**9): open(f'/dev/shm/f{i}', 'wb').write(b'x' * (1 << 20))"),
    "descriptors": ({ERROR}, "import os\ndef f(x):\n    while True: os.dup(0)"),
    "pipes full of data": ({ERROR}, "import os\ndef f(x):\n    while True:\n        r, w = os.pipe()\n        os.set_blocking(w, False)\n        os.write(w, b'x' * 65536)"),
    "sockets full of data": ({ERROR}, "import socket\ndef f(x):\n    kept = []\n    while True:\n        a, b = socket.socketpair()\n        kept += [a, b]\n"
    "        a.setblocking(False)\n        a.send(b'x' * 200_000)"),
    "flood on standard output": ({OUTPUT}, "import os\ndef f(x):\n    while True: os.write(1, b'x' * 65536)"),
    "flood on standard error": ({OUTPUT}, "import os\ndef f(x):\n    while True: os.write(2, b'x' * 65536)"),
    "flood while loading": ({OUTPUT}, "while True: print('x' * 65536)"),
    "a huge answer": ({OUTPUT, MEMORY, ERROR}, "def f(x): return 'x' * (50 << 20)"),
    "many huge answers": ({WRONG}, "def f(x):\n    while True: yield 'x' * 100_000"),
    "standard input": ({ERROR}, "import sys\ndef f(x): return sys.stdin.read() + 1"),
    "an endless loop": ({TIME}, "def f(x):\n    while True: pass"),
    "an endless loop while loading": ({TIME}, "while True: pass"),
    "an endless loop that ignores signals": ({TIME}, "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
    "    except (OSError, ValueError): pass\ndef f(x):\n    while True: pass"),
    "an endless loop in C": ({TIME}, "import itertools\ndef f(x): return sum(itertools.repeat(1))"),
    "a sleep": ({TIME}, "import time\ndef f(x): time.sleep(99)"),
    "a sleep while loading": ({TIME}, "import time\ntime.sleep(99)"),
    "a wait for nothing": ({TIME}, "import threading\ndef f(x): threading.Event().wait()"),
    "a deadlock": ({TIME}, "import threading\ndef f(x):\n    lock = threading.Lock()\n    lock.acquire()\n    lock.acquire()"),
    "a regular expression": ({TIME}, "import re\ndef f(x): return re.match('(a+)+$', 'a' * 40 + 'b')"),
    "a huge integer": ({TIME, MEMORY}, "def f(x): return 10 ** (10 ** 9)"),
    "a large integer for the judge": ({OUTPUT}, "def f(x): return 1 << 30_000_000"),
    "colliding hashes": ({TIME}, "def f(x): return {i * ((1 << 61) - 1): 1 for i in range(1, 60_000)}"),
    "deep data": ({ERROR}, "def f(x):\n    a = []\n    for _ in range(100_000): a = [a]\n    return a"),
    "data that holds itself": ({ERROR}, "def f(x):\n    a = []\n    a.append(a)\n    return a"),
    "a compile bomb of brackets": ({COMPILE}, "x = " + "(" * 5000 + ")" * 5000),
    "a compile bomb of operators": ({COMPILE, MEMORY, ERROR}, "x = " + "-" * 100_000 + "1"),
    "a compile bomb of constants": ({TIME, MEMORY}, "x = " + " ** ".join(["9"] * 9) + "\ndef f(x): return x"),
    "a compile bomb of powers": ({TIME, MEMORY, ERROR}, "def f(x): return (1 << 100_000_000) * (1 << 100_000_000) * (1 << 100_000_000)"),
    "decompression": ({MEMORY}, "import zlib\ndef f(x):\n    data = zlib.compress(bytes(50 << 20))\n    return [zlib.decompress(data) for _ in range(99)]"),
    "a daemon": ({ERROR}, "import os, time\ndef f(x):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            while True: time.sleep(1)\n"
    "        os._exit(0)\n    raise ValueError"),
    "a daemon that holds everything open": ({ERROR}, "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(999)\nos._exit(0)"),
    "a daemon that goes to another parent": ({ERROR}, "import ctypes, os, time\nctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\ndef f(x):\n"
    "    if os.fork() == 0:\n        if os.fork() == 0: time.sleep(999)\n        os._exit(0)\n    os._exit(0)"),
    "time used by a process beside": ({TIME}, "import ctypes, os, time\ndef f(x):\n"
    "    if ctypes.CDLL(None).syscall(56, 0x8000 | 17, 0, 0, 0, 0) == 0:\n        while True: pass\n    time.sleep(99)"),
    "zombies": ({TIME}, "import os, time\ndef f(x):\n    for _ in range(10**6):\n        try:\n            if os.fork() == 0: os._exit(0)\n"
    "        except OSError: time.sleep(99)"),
    "locks": ({TIME, ERROR}, "import fcntl, time\ndef f(x):\n    fcntl.flock(open('/usr/bin/python3.11'), fcntl.LOCK_EX)\n    time.sleep(99)"),
}  # fmt: skip


@pytest.mark.parametrize("name", EATERS)
def test_what_eats_without_end_meets_a_limit(assault: Assault, name: str, request: pytest.FixtureRequest) -> None:
    expect, program = EATERS[name]
    if "fork bomb" in name:
        require_bounded_processes(request.node.callspec.params["attacked"])
    assault(program, expect=expect, limits=PATIENT.get(name, LIMITS))


FOR_THE_JUDGE = {
    "a decimal to be made an integer": ({ERROR, TIME}, "import decimal\ndef f(x): return decimal.Decimal('1e999999999')", "assert int(f(1)) == 2"),
    "a range to be made a list": ({ERROR, TIME, WRONG}, "def f(x): return range(10 ** 15)", "assert list(f(1)) == [2]"),
    "a text for a regular expression": ({ERROR, TIME}, "def f(x): return 'a' * 40 + 'b'", "import re\nassert re.fullmatch('(a+)+', f(1))"),
    "a power": ({ERROR, TIME}, "def f(x): return 10 ** 18", "assert 3 ** f(1) == 2"),
    "a type to be called": ({WRONG, ERROR}, "def f(x): return bytearray", "assert len(f(1)(10 ** 12)) == 2"),
    "a function of the test, called without end": ({TIME, OUTPUT}, "def f(g):\n    while True: g(1)", "assert f(lambda x: x) == 2"),
    "a function of the test, called from within itself": ({ERROR}, "def f(g): return g(g)", "assert f(lambda g: f(g)) == 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOR_THE_JUDGE)
def test_what_is_dear_to_the_judge_fails_the_program_that_returned_it(assault: Assault, name: str) -> None:
    expect, program, case = FOR_THE_JUDGE[name]
    assault(program, case, expect=expect, limits=LIMITS)


DEEP_TREE = """
import os
def f(x):
    try:
        for _ in range(100_000):
            os.mkdir('d')
            os.chdir('d')
    except OSError:
        pass
    return x + 1
"""
LITTER = """
import os, socket
os.mkdir('work')
os.chdir('work')
try: os.mkfifo('fifo')
except OSError: pass
os.symlink('/', 'root')
os.symlink('loop', 'loop')
os.makedirs('a/b/c')
open('a/b/file', 'w').close()
os.chmod('a/b', 0)
os.chmod('a', 0)
socket.socket(socket.AF_UNIX).bind('sock')
open(b'\\xff\\n\\x1b[31m', 'w').close()
open('x' * 255, 'w').close()
os.link('x' * 255, 'y')
os.chmod('.', 0)
def f(x): return x + 1
"""


@pytest.mark.parametrize("program", [DEEP_TREE, LITTER])
def test_files_that_are_hard_to_clean_away_are_gone_after_the_run(assault: Assault, program: str) -> None:
    assault(program, expect=Outcome.PASSED)
    assault("import os\ndef f(x): return os.listdir('.')", "assert f(1) == []", expect=Outcome.PASSED)


def test_a_right_answer_with_a_daemon_behind_it_passes_and_the_daemon_is_ended(assault: Assault) -> None:
    program = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(999)\ndef f(x): return x + 1"
    assault(program, expect=Outcome.PASSED)


LEAVES = """
import os
for place in (os.getcwd(), os.environ.get('HOME', '/'), os.environ.get('TMPDIR', '/tmp'), os.environ.get('XDG_CACHE_HOME', '/tmp'), '/tmp', '/var/tmp', '/dev/shm', '/dev/mqueue', '/run'):
    for name in ('left', '.left', 'json.py', 'usercustomize.py', '.pythonrc', 'left.pth'):
        try: open(os.path.join(place, name), 'w').write('import os; os._exit(0)')
        except OSError: pass
os.environ['LEFT'] = '1'
def f(x): return x + 1
"""
LOOKS = """
import json, os
def f(x):
    found = [os.path.join(top, n) for top in ('/tmp', '/var/tmp', '/dev/shm', '/dev/mqueue', '/run', os.getcwd()) for n in ('left', '.left', 'json.py')
             if os.path.exists(os.path.join(top, n))]
    return found + [json.__file__] * ('lib' not in json.__file__) + ['LEFT'] * ('LEFT' in os.environ)
"""


def test_nothing_that_a_program_leaves_is_there_for_the_next(assault: Assault) -> None:
    for _ in range(2):
        assault(LEAVES, expect=Outcome.PASSED)
        assault(LOOKS, "assert f(1) == []", expect=Outcome.PASSED)


def test_spoofed_time_changes_nothing(assault: Assault) -> None:
    program = """
import time
time.time = time.monotonic = time.perf_counter = time.process_time = lambda: 0.0
time.sleep, sleep = (lambda s: None), time.sleep
def f(x): sleep(99)
"""
    assault(program, expect=Outcome.TIME_LIMIT, limits=LIMITS)


# What belongs to an open file, and not to the process that has it, would outlive the run if two runs shared one.
OF_OPEN_FILES = """
import fcntl, os
F_SETSIG, F_GETSIG = 10, 11
def f(x):
    was = [fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_APPEND | os.O_NONBLOCK) or fcntl.fcntl(fd, F_GETSIG) for fd in range(3)]
    for fd in range(3):
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)
        fcntl.fcntl(fd, F_SETSIG, 12)
    return was
"""


def test_flags_of_open_files_end_with_the_run(assault: Assault) -> None:
    assault(OF_OPEN_FILES, "assert f(1) == [0, 0, 0]", expect=Outcome.PASSED)
