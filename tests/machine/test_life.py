"""A kernel's end, its copies in other processes, and what crosses between them."""

import contextlib
import copy
import gc
import os
import pickle
import subprocess
import sys
import weakref

import pytest

from vmcore import errors
from vmcore.errors import CannotCopy, KernelBug, KernelClosed, KernelDead, OutOfVmallocSpace, VmcoreError
from vmcore.kernel import Kernel
from vmcore.machine.log import LOG_LINES

PAGE = 4096


# ---- the end


@pytest.fixture
def _no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("checked", [False, True])
def test_a_dropped_kernel_gives_its_ram_back_at_once(kernel, arch, checked):
    k = kernel(arch, ram="64M", cpus=min(2, arch.max_cpus), check_coherence=checked)
    k.vwrite(k.vmalloc(20 * PAGE), b"x" * PAGE)
    k.switch_mm(0, k.mm_alloc())
    with pytest.raises(MemoryError):
        k.vmalloc(1 << 30)
    machine, memory = weakref.ref(k), weakref.ref(k.memory)
    del k
    assert (machine(), memory()) == (None, None)


def resident():
    """Return the bytes of this process that are in host memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.usefixtures("_no_collector")
def test_kernels_one_after_the_other_need_the_ram_of_one():
    before = resident()
    for _ in range(5):
        k = Kernel("i386", ram="128M")
        k.vwrite(k.vmalloc(64 << 20), b"x" * (64 << 20))
    assert resident() - before < 180 << 20


def test_a_closed_kernel_refuses_and_its_ram_is_free(kernel, arch):
    with kernel(arch, ram="64M") as k:
        addr = k.vmalloc(20 * PAGE)
        k.vwrite(addr, b"x" * PAGE)
        held = k.memory.pages[k.find_vm_area(addr).pages[0]] if k.memory.banks[0].start == 0 else None
    assert held is None or not held.any()
    assert isinstance(k.dead, KernelClosed)
    for use in (lambda: k.vmalloc(1), lambda: k.vfree(addr), lambda: k.vread(addr, 1), k.check, k.vmallocinfo,
                lambda: k.cpu.load(addr, 1), lambda: k.cpu.store(addr, b"x"), lambda: k.find_vm_area(addr),
                lambda: k.kmalloc(1, 0, -1), lambda: k.save("never")):  # fmt: skip
        with pytest.raises(KernelDead, match=r"this kernel is dead \(its close\(\) was called\); boot a new one"):
            use()
    k.close()
    assert isinstance(k.dead, KernelClosed)


def test_closing_keeps_the_first_cause(kernel, arch):
    k = kernel(arch, ram="64M")
    k.in_interrupt = True
    with pytest.raises(KernelBug) as caught:
        k.vmalloc(1)
    k.close()
    assert k.dead == caught.value


def test_the_log_is_bounded_and_its_counts_are_exact(kernel, arch):
    k = kernel(arch, ram="64M")
    notes, n = len(k.dmesg), 2 * LOG_LINES + 5
    for bad in range(1, n + 1):
        k.vfree(bad * PAGE + 1)
    assert (k.printk_count, k.warn_count) == (n + notes, n)
    assert LOG_LINES <= len(k.dmesg) <= 2 * LOG_LINES
    assert LOG_LINES <= len(k.warnings) <= 2 * LOG_LINES
    assert k.lines() == (k.dmesg[-1],)
    assert f"({n * PAGE + 1:0{arch.word_bits // 4}x})" in k.dmesg[-1]


# ---- fork


def in_a_child(check):
    """Return whether a function answers True in a forked child."""
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def test_a_forked_child_has_a_machine_of_its_own(kernel, arch):
    k = kernel(arch, ram="64M")
    areas = [k.vmalloc(10 * PAGE) for _ in range(3)]
    k.vwrite(areas[0], b"parent")

    def change():
        k.vwrite(areas[0], b"child!")
        for addr in areas[1:]:
            k.vfree(addr)
        k.check()
        return k.vread(areas[0], 6) == b"child!"

    in_use = k.pages.pages_in_use
    for _ in range(3):
        assert in_a_child(change)
    k.check()
    assert (k.vread(areas[0], 6), k.pages.pages_in_use) == (b"parent", in_use)
    for addr in areas:
        k.vfree(addr)
    k.check()


# ---- pickle


def example(kind):
    """Return an exception of a class, its arguments made up from their annotations."""
    made = {"int": 5, "int | None": 7, "str": "subject", "object": "found", "KernelFailure": KernelBug("c", "f")}
    code = kind.__init__.__code__ if hasattr(kind.__init__, "__code__") else None
    if code is None:
        return kind("a message")
    names = code.co_varnames[1 : code.co_argcount]
    return kind(*(made.get(kind.__init__.__annotations__[n], ("one", "two")) for n in names))


ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.VmcoreError) and value.__module__ == "vmcore.errors"
]


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_an_exception_keeps_its_message_and_its_facts(kind, again):
    error = example(kind)
    error.add_note("a note")
    found = again(error)
    assert (type(found), str(found), found.args) == (kind, str(error), error.args)
    facts = {name: str(value) for name, value in vars(found).items()}
    assert facts == {name: str(value) for name, value in vars(error).items()}
    assert getattr(found, "errno", None) == getattr(error, "errno", None)


def test_an_exception_of_a_plugin_survives_too():
    error = pickle.loads(pickle.dumps(StrangersError(7)))
    assert (error.number, str(error)) == (7, "seven is 7")


class StrangersError(errors.KernelError):
    """A subclass with a constructor of its own."""

    def __init__(self, number):
        super().__init__(number, f"seven is {number}")
        self.number = number


POOL = """
import concurrent.futures, multiprocessing, sys
from vmcore import Kernel

def fail(size):
    return Kernel("i386", ram="64M").vmalloc(size)

if __name__ == "__main__":
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(sys.argv[1])) as pool:
        results = [pool.submit(fail, size) for size in [4096, 1 << 31] * 50]
        print([type(result.exception()).__name__ for result in results] == ["NoneType", "OutOfMemory"] * 50)
"""


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_pool_gets_the_failures_of_its_workers(tmp_path, start):
    script = tmp_path / "pool.py"
    script.write_text(POOL, encoding="utf-8")
    run = subprocess.run([sys.executable, script, start], capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "True\n", "")


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_kernel_says_that_it_cannot_be_copied(kernel, arch, way):
    k = kernel(arch, ram="64M")
    with pytest.raises(CannotCopy, match="a Kernel cannot be pickled or copied: its RAM is one mapping") as caught:
        way(k)
    assert isinstance(caught.value, TypeError)
    if way is not copy.copy:
        for part in (k.memory, k.cpu, k.init_mm):
            with pytest.raises(CannotCopy, match=r"(simulated RAM|a part of a Kernel) cannot be pickled"):
                way(part)


def test_a_failure_carries_its_lines_across(kernel, arch):
    k = kernel(arch, ram="64M")
    k.vmalloc(1)
    with pytest.raises(errors.KernelFailure) as caught:
        k.get_vm_area(arch.word_mask // 2, 2)
    found = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(found, OutOfVmallocSpace)
    assert (found.lines, found.size) == (caught.value.lines, caught.value.size)


FAILURES = {
    "load": lambda k: k.cpu.load(5, 1),
    "loads": lambda k: k.cpu.load(5, 3 * k.page_size),
    "store": lambda k: k.cpu.store(5, b"x"),
    "page": lambda k: (k.fail("alloc_page", 1), k.vmalloc(4096)),
    "pgtable": lambda k: (k.fail("pgtable", 1), k.vmalloc(1 << 22)),
    "kmalloc": lambda k: (k.fail("kmalloc", 1), k.vmalloc(4096)),
    "alloc_vm_area": lambda k: (k.fail("pgtable", 1), k.alloc_vm_area(1 << 22)),
    "bug": lambda k: k.unmap_kernel_range(k.vmalloc(4096), 0),
    "oops": lambda k: k.oops(0, "read"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_that_is_not_kept_keeps_no_kernel(kernel, arch, failure):
    k = kernel(arch, ram="64M")
    ram = weakref.ref(k.memory)
    gc.disable()
    try:
        with contextlib.suppress(VmcoreError):
            FAILURES[failure](k)
        del k
        assert ram() is None
    finally:
        gc.enable()
