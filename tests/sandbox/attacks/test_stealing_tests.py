# Attacks are programs on one line each.
# ruff: noqa: E501
"""Looking for what the judge knows: the tests are in no place that a candidate can read."""

from __future__ import annotations

import pytest

from sandbox import Outcome

from .conftest import Assault

SEARCHES = {
    "frames": """
def search():
    frame = sys._getframe()
    while frame:
        yield repr(frame.f_globals) + repr(frame.f_locals) + repr(frame.f_code.co_consts)
        frame = frame.f_back
""",
    "every object": """
def search():
    for thing in gc.get_objects():
        try: yield repr(thing)
        except BaseException: pass
""",
    "inspect": "import inspect\ndef search():\n    for info in inspect.stack(): yield repr(info.frame.f_back and info.frame.f_back.f_locals)",
    "modules": "def search():\n    for module in list(sys.modules.values()): yield repr(vars(module))",
    "argv and environment": "def search(): yield repr(sys.argv) + repr(sys.orig_argv) + repr(os.environ)",
    "descriptors": """
def search():
    for fd in range(0, 64):
        if fd == 3: continue
        for read in (lambda: os.pread(fd, 1 << 16, 0), lambda: os.read(fd, 1 << 16)):
            try:
                os.set_blocking(fd, False)
                yield read().decode('latin1')
            except OSError: pass
""",
    "peeking at the socket": """
def search():
    link = socket.socket(fileno=os.dup(3))
    link.setblocking(False)
    try: yield link.recv(1 << 16, socket.MSG_PEEK).decode('latin1')
    except OSError: pass
""",
    "files": """
def search():
    for top in ('/tmp', '/etc', '/dev/shm', '/run', '/var', '/root', '/home', '/work', '/mnt', '/opt', '/srv', '/sys/fs'):
        for folder, _, names in os.walk(top):
            for name in names:
                try: yield open(os.path.join(folder, name), 'rb').read(1 << 16).decode('latin1')
                except OSError: pass
""",
    "other processes": """
def search():
    for pid in ['self', 'thread-self', *map(str, range(1, 400))]:
        for name in ('cmdline', 'environ', 'mem', 'maps', 'stack', 'syscall', 'auxv', 'status', 'fd/0', 'fd/3', 'fd/4'):
            if pid in ('self', 'thread-self') and name in ('mem', 'fd/3'): continue
            try:
                fd = os.open(f'/proc/{pid}/{name}', os.O_RDONLY | os.O_NONBLOCK)
                yield os.read(fd, 1 << 16).decode('latin1')
            except OSError: pass
""",
    "memory of others": """
def search():
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(1 << 16)
    class Vector(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('size', ctypes.c_size_t)]
    for pid in [os.getppid(), *range(1, 200)]:
        if pid == os.getpid(): continue
        here, there = Vector(ctypes.addressof(buffer), 1 << 16), Vector(id(search) & ~0xfff, 4096)
        libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
        yield buffer.raw.decode('latin1')
        libc.ptrace(16, pid, 0, 0)
        libc.syscall(434, pid, 0)
        for fd in range(8): libc.syscall(438, pid, fd, 0)
""",
    "own memory": """
def search():
    # From several places on the heap in both directions, as far as it can be read: write() to a pipe fails where not.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    source, sink = os.pipe()
    for start in (id(search), id(sys.modules), id(None), ctypes.addressof(ctypes.create_string_buffer(1))):
        for step in (1, -1):
            page = start & ~0xfff
            for _ in range(4000):
                if libc.write(sink, page, 4096) != 4096: break
                yield os.read(source, 4096).decode('latin1')
                page += 4096 * step
""",
    "traces": "import traceback, threading\ndef search():\n    yield repr(traceback.format_stack()) + repr(threading.enumerate()) + repr(sys._current_frames())",
    "the harness": """
def search():
    for thing in gc.get_objects():
        if type(thing).__name__ in ('Candidate', 'Server', 'Run', 'Order'):
            for name in dir(thing):
                try: text = repr(getattr(thing, name, None))
                except Exception: continue
                yield text
""",
    "asking the judge": """
def search():
    frame = sys._getframe()
    while 'sequence' not in frame.f_locals: frame = frame.f_back
    turn = frame.f_locals['sequence']
    for message in ([turn, 'callback', 0, [], {}], [turn, 'get', 'SECRET', [], {}]):
        data = json.dumps(message).encode()
        os.write(3, struct.pack('>I', len(data)) + data)
        yield os.read(3, 1 << 16).decode('latin1')
""",
}  # fmt: skip
HEAD = "import ctypes, gc, json, os, re, socket, struct, sys\n"
FIND = """
def f(x):
    own = 'SECRET' + '[0-9a-f]' * 32
    for text in search():
        found = re.search(own, text)
        if found: return found[0]
    return 'nothing'
"""


@pytest.mark.parametrize("name", SEARCHES)
def test_the_expected_value_cannot_be_found(assault: Assault, name: str) -> None:
    """The only way to pass would be to return the secret, which is new in each run."""
    expect = frozenset({Outcome.WRONG_ANSWER, Outcome.RUNTIME_ERROR})
    for verdict in assault(HEAD + SEARCHES[name] + FIND, "assert f(1) == SECRET", expect=expect):
        if verdict.outcome is Outcome.RUNTIME_ERROR:
            assert name == "asking the judge", verdict


@pytest.mark.parametrize("name", [name for name in SEARCHES if name != "asking the judge"])
def test_a_large_suite_that_stays_in_the_slot_cannot_be_found(assault: Assault, name: str) -> None:
    """As above, with a suite that the slot keeps for the programs after this one."""
    filler = f"filler = {'y' * 20_000!r}"
    assault(HEAD + SEARCHES[name] + FIND, "assert f(1) == SECRET", setup=filler, expect=Outcome.WRONG_ANSWER)


def test_a_candidate_does_not_see_the_large_suite_of_a_run_before_it(assault: Assault) -> None:
    filler = f"filler = {'y' * 20_000!r}\nhidden = 'SECRET' + '0123456789abcdef' * 2"
    for name in ("descriptors", "own memory", "every object", "other processes"):
        assault("def f(x): return x", "assert f(1) == 1", setup=filler, expect=Outcome.PASSED)
        assault(HEAD + SEARCHES[name] + FIND, "assert f(1) == 'nothing'", expect=Outcome.PASSED)


def test_the_search_would_find_what_is_there(assault: Assault) -> None:
    """The attacks' own positive control: a text of that form in the program itself is found."""
    for name in ("every object", "own memory", "frames"):
        planted = "hidden = 'SECRET' + '0123456789abcdef' * 2\n"
        case = "assert f(1) == 'SECRET' + '0123456789abcdef' * 2"
        assault(HEAD + planted + SEARCHES[name] + FIND, case, expect=Outcome.PASSED)


def test_a_candidate_does_not_see_the_program_before_it(assault: Assault) -> None:
    """The server is the parent of all candidates, and must not have seen their sources."""
    for name in ("every object", "own memory"):
        first = "mark = 'MARK' + 'of-an-earlier-program' * 2\ndef f(x): return mark\n"
        looks = (
            HEAD
            + SEARCHES[name]
            + FIND.replace("'SECRET' + '[0-9a-f]' * 32", "'MARK' + '(of-an-earlier-[p]rogram){2}'")
        )
        assault(first, "assert f(1) == 2", expect=Outcome.WRONG_ANSWER)
        assault(looks, "assert f(1) == 'nothing'", expect=Outcome.PASSED)
