"""Sharing of work, several threads at once, a fork, and the cache of compiled kernels."""

import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import caching, errors

from onnxplain.engine import workers
from onnxplain.engine.jit import Kernel
from onnxplain.engine.team import _ALONE, _LEADS, items, team, turns
from onnxplain.engine.workers import share

EVERY_KERNEL = """
import numpy as np
from onnxplain.engine.host import Host
from onnxplain.engine.namespace import Window

def explain(seed):
    xp, rng = Host(), np.random.default_rng(seed)
    window = Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 16, 40, 40), (16, 16, 3, 3)))
    y = xp.conv(x, w, window)
    dx = xp.conv_input_grad(xp.ratio(y, y, 0.1), w, window, 1, (40, 40))
    dx = xp.conv_input_grad(xp.mask(dx, x), w[:, :1], window, 16, (40, 40))
    return xp.max_unpool(dx, xp.max_pool(x, window), window)
"""


def python(script, **environment):
    """Output of a fresh interpreter that runs ``script``; whatever it has forked ends with it."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        raise
    assert process.returncode == 0, stderr
    return stdout


def explain(seed):
    scope = {}
    exec(EVERY_KERNEL, scope)
    return scope["explain"](seed)


def number(turn, out):
    for i in items(turn):
        out[i] += i


@pytest.fixture
def four_threads(monkeypatch):
    """As many workers as a machine with four cores has, whatever this one has."""
    monkeypatch.setattr(workers, "THREADS", 4)
    workers.pool.cache_clear()
    team.cache_clear()
    yield
    workers.pool().shutdown()
    workers.pool.cache_clear()
    team.cache_clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder in which numba keeps what it compiles."""
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    return tmp_path


# sharing


@pytest.mark.parametrize("count", [0, 1, 3, 1000])
def test_every_share_is_worked_on_once(four_threads, count):
    seen = []
    share(lambda *share: seen.append(share), [(i, -i) for i in range(count)])
    assert sorted(seen) == [(i, -i) for i in range(count)]


def test_all_threads_take_part(four_threads):
    meeting = threading.Barrier(4, timeout=30)
    share(meeting.wait, [()] * 4)


def test_an_error_in_a_share_comes_out(four_threads):
    def fail(i):
        if i == 7:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        share(fail, [(i,) for i in range(20)])


@pytest.mark.parametrize("elements", [1, 1 << 20])
@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_a_kernel_handles_every_item_once(four_threads, count, elements):
    kernel = Kernel(number)
    for _ in range(20):
        out = np.zeros(count + 1)
        kernel(count, elements, out)
        assert out.tolist() == [*range(count), 0]


def test_all_threads_join_in_a_kernel(four_threads):
    meeting, seen = threading.Barrier(4, timeout=30), []

    def meet(turn):
        for start, stop in turns(turn):
            meeting.wait()
            seen.append((start, stop, threading.get_ident()))

    for _ in range(3):
        team().work(meet, 4, (), True)
        assert sorted(seen)[-1][:2] == (3, 4)
        assert len({thread for _, _, thread in seen}) == 4
        seen.clear()


def test_an_error_of_a_helper_comes_out(four_threads):
    leader, failed = threading.get_ident(), threading.Event()

    def fail(turn):
        for _ in turns(turn):
            if threading.get_ident() != leader:
                failed.set()
                raise MemoryError("no room")
            failed.wait(30)

    with pytest.raises(MemoryError, match="no room"):
        team().work(fail, 4, (), True)
    out = np.zeros(1000)
    Kernel(number)(1000, 1 << 20, out)
    assert out.tolist() == [*range(1000)]


def hungry(turn, out):
    for i in items(turn):
        out[i] = np.empty(1 << 50)[0]


def test_a_kernel_that_finds_no_memory_says_so_and_ends(four_threads):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no matter of the cache
        for elements in (1, 1 << 20):
            with pytest.raises(MemoryError):
                Kernel(hungry)(8, elements, np.zeros(8))


def test_an_error_of_the_leader_leaves_the_team_ready(four_threads):
    kernel = Kernel(number)
    for _ in range(3):
        with pytest.raises(errors.TypingError):
            kernel(3, 1 << 20, "text")
    out = np.zeros(3)
    kernel(3, 1 << 20, out)
    assert out.tolist() == [0, 1, 2]


def test_a_kernel_within_a_share_or_beside_another_is_not_shared(four_threads):
    roles = []

    def look(turn):
        roles.append(turn.role)
        list(turns(turn))

    share(lambda: team().work(look, 100, (), True), [()] * 3)

    def beside(turn):
        if turn.role == _LEADS:
            other = threading.Thread(target=team().work, args=(look, 100, (), True))
            other.start()
            other.join()
        list(turns(turn))

    team().work(beside, 100, (), True)
    assert roles == [_ALONE] * 4


def test_helpers_let_go_of_what_they_worked_on(four_threads):
    out = np.zeros(100_000)
    gone = weakref.ref(out)
    Kernel(number)(100_000, 1 << 20, out)
    del out
    deadline = time.monotonic() + 30
    while (gone() is not None or team()._helpers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gone() is None
    assert team()._helpers == 0


# many at a time


def test_four_threads_get_what_one_gets():
    alone = [explain(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for found, expected in zip(pool.map(explain, range(4)), alone, strict=True):
                np.testing.assert_array_equal(found, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_gets_what_its_parent_gets():
    python(f"""{EVERY_KERNEL}
import os, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of a fork beside threads, the point here

expected = explain(0)
busy, stop = threading.Event(), threading.Event()

def keep_working():
    while not stop.is_set():
        explain(1)
        busy.set()

other = threading.Thread(target=keep_working)
other.start()
busy.wait()
for _ in range(5):
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(explain(0), expected) else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert np.array_equal(explain(0), expected)
stop.set()
other.join()
""")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_forked_during_a_compilation_compiles(tmp_path):
    script = f"""{EVERY_KERNEL}
import os, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from onnxplain.engine import product_kernels

other = threading.Thread(target=explain, args=(0,))
other.start()
time.sleep(0.3)
child = os.fork()
if child == 0:
    explain(0)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
other.join()
"""
    python(script, NUMBA_CACHE_DIR=str(tmp_path))


# compilation


def test_numba_is_imported_on_demand():
    python("import sys, onnxplain.engine.host; assert 'numba' not in sys.modules")


@pytest.mark.slow
def test_a_float32_network_compiles_each_kernel_once_and_caches_it(tmp_path):
    script = f"""{EVERY_KERNEL}
explain(0)
xp = Host()
for axes in (1, 2, 3):
    x = np.ones((2, 4, *[9] * axes), np.float32)
    frozen = x.copy()
    frozen.flags.writeable = False
    window = Window((3,) * axes, (2,) * axes, (1,) * axes, (1,) * axes, (1,) * axes)
    for view in (x, frozen, x[:, ::-1], x.astype(float)):
        for inputs, group in ((4, 1), (1, 4)):
            w = np.ones((4, inputs, *[3] * axes))
            y = xp.conv(view, w, window, group)
            xp.conv_input_grad(y, w, window, group, (9,) * axes)
        xp.max_unpool(xp.max_pool(view, window), view, window)
        xp.ratio(xp.mask(view, x, None, 6), x[:1], 0)
xp.negative(xp.positive(np.ones((2, 1 << 14))))
from onnxplain.engine import depthwise_kernels, element_kernels, pool_kernels, product_kernels
modules = (depthwise_kernels, element_kernels, pool_kernels, product_kernels)
every = set(k for module in modules for k in vars(module).values() if isinstance(k, product_kernels.Kernel))
compiled = [k._compiled for k in every]
print(sum(len(c.signatures) for c in compiled), sum(sum(c.stats.cache_misses.values()) for c in compiled))
inner = {{v for module in modules for v in vars(module).values() if isinstance(v, type(product_kernels.copy))}}
print(sum(bool(f.signatures) for f in inner), sum(len(f.signatures) for f in inner))
"""
    kernels, missed, used, compiled = python(script, NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert kernels == missed == "8"
    assert used == compiled
    assert int(used) > 10
    assert python(script, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["8", "0", "0", "0"]


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("content", [b"", b"rubbish"])
def test_a_damaged_cache_is_reported_and_done_without(cache, suffix, content):
    out = np.zeros(3)
    Kernel(number)(3, 3, out)
    files = list(cache.rglob(f"*{suffix}"))
    assert files
    for file in files:
        file.write_bytes(content)
    out[:] = 0
    damaged = Kernel(number)
    with pytest.warns(RuntimeWarning, match=f"{cache}.* until that folder is deleted"):
        damaged(3, 3, out)
    assert out.tolist() == [0, 1, 2]
    out[:] = 0
    damaged(3, 3, out)
    assert out.tolist() == [0, 1, 2]


def test_a_full_disk_is_reported_and_done_without(cache, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", fail)
    out = np.zeros(3)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        Kernel(number)(3, 3, out)
    assert out.tolist() == [0, 1, 2]


def test_no_folder_for_a_cache(monkeypatch):
    compile_function = numba.njit

    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_function(**options)

    monkeypatch.setattr(numba, "njit", njit)
    out = np.zeros(3)
    Kernel(number)(3, 3, out)
    assert out.tolist() == [0, 1, 2]


def test_wrong_arguments_are_no_matter_of_the_cache():
    with pytest.raises(errors.TypingError):
        Kernel(number)(3, 3, "text")


def test_a_change_in_what_kernels_call_makes_them_anew(tmp_path):
    """Their own file stays as it is, and so does the time of its last change."""
    root = tmp_path / "clone"
    shutil.copytree(Path(workers.__file__).parents[1], root / "onnxplain", ignore=shutil.ignore_patterns("__pycache__"))
    script = """
import sys
sys.path.pop(0)  # the folder that the tests run in
import numpy as np
from onnxplain.engine import element_kernels
from onnxplain.engine.host import Host
Host().sum_samples(np.ones((2, 3, 4), np.float32))
print(sum(element_kernels.sums._compiled.stats.cache_misses.values()), element_kernels.__file__)
"""

    def missed():
        count, file = python(script, PYTHONPATH=str(root)).split()
        assert Path(file).is_relative_to(root)
        return int(count)

    assert [missed(), missed()] == [1, 0]
    with (root / "onnxplain" / "engine" / "team.py").open("a") as file:
        file.write("# changed\n")
    assert [missed(), missed()] == [1, 0]
