"""A kernel that an interrupt cut short is as before the call, or dead, and says so."""

import collections
import contextlib
import enum
import gc
import inspect
import random
import signal
import sys

import numpy as np
import pytest

from vmcore.errors import ArgumentError, KernelDead, KernelInterrupted, OutOfMemory
from vmcore.flags import GFP_KERNEL, VM

PAGE = 4096


class Stop(BaseException):
    """What the interrupt raises."""


def state(k):
    """Return everything that a call may change and a program can see."""
    words = tuple(part.tobytes() for part in k.init_mm.entries())
    areas = [(a.addr, a.size, a.flags, a.nr_pages) for a in k.vmlist]
    counts = k.pages.pages_in_use, k.slab.live_objects, k.printk_count, k.warn_count, k.syncs
    return areas, words, counts, [cpu.mm for cpu in k.cpus], len(k.pgd_list)


def interrupt(call, moment):
    """Run a call and raise `Stop` at the n-th moment at which Python looks for signals.

    Python looks where a function of its own begins, and behind a call of a C function. Return how many it reached.
    """
    reached = 0

    def look(frame, event, argument):
        nonlocal reached
        ends_a_generator = frame.f_code.co_flags & inspect.CO_GENERATOR  # Python drops what is raised there
        if event in ("call", "c_return") and not ends_a_generator:
            reached += 1
            if reached == moment:
                sys.setprofile(None)
                raise Stop

    gc.disable()  # Python drops what is raised in a finalizer, of another test's kernel for example
    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
        gc.enable()
    return reached


def refused(k, size):
    """Allocate without success."""
    k.fail("alloc_page", 3)
    with contextlib.suppress(OutOfMemory):
        k.vmalloc(size)


CALLS = {
    "vmalloc": lambda k, a: k.vmalloc(PAGE),
    "vmalloc, many pages": lambda k, a: k.vmalloc(700 * PAGE),
    "vmalloc that finds no pages": lambda k, a: refused(k, 5 * PAGE),
    "vmalloc_32_user": lambda k, a: k.vmalloc_32_user(3 * PAGE),
    "vfree": lambda k, a: k.vfree(a),
    "vfree of nothing": lambda k, a: k.vfree(a + PAGE),
    "vmap": lambda k, a: k.vmap(k.find_vm_area(a).pages, 2, int(VM.MAP), k.page_kernel),
    "get_vm_area": lambda k, a: k.get_vm_area(3 * PAGE, 1),
    "remove_vm_area": lambda k, a: k.remove_vm_area(a),
    "map_vm_area": lambda k, a: k.map_vm_area(k.find_vm_area(a), k.page_kernel, np.arange(256, 258)),
    "unmap_kernel_range": lambda k, a: k.unmap_kernel_range(a, 2 * PAGE),
    "alloc_vm_area": lambda k, a: k.alloc_vm_area(3 * PAGE),
    "free_vm_area": lambda k, a: k.free_vm_area(k.find_vm_area(a)),
    "ioremap": lambda k, a: k.ioremap(1 << 24, 3 * PAGE),
    "vwrite": lambda k, a: k.vwrite(a, bytes(2 * PAGE)),
    "vread": lambda k, a: k.vread(a, 2 * PAGE),
    "load": lambda k, a: k.cpu.load(a + 100, PAGE),
    "store": lambda k, a: k.cpu.store(a + PAGE, b"12345678"),
    "mm_alloc": lambda k, a: k.mm_alloc(),
    "switch_mm": lambda k, a: k.switch_mm(0, k.pgd_list[0]),
    "vmalloc_sync_all": lambda k, a: k.vmalloc_sync_all(),
    "kmalloc": lambda k, a: k.kmalloc(100, GFP_KERNEL, -1),
    "alloc_pages": lambda k, a: k.alloc_pages(40, GFP_KERNEL, -1),
    "free_pages": lambda k, a: k.free_pages(k.find_vm_area(a).pages),
    "flush": lambda k, a: k.flush("flush_tlb_kernel_range", a, a + PAGE),
}


@pytest.mark.parametrize(("name", "step"), [("i386-pae", 2), ("armv5", 3)])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_interrupt_at_any_moment(registry, kernel, name, step, call):
    moment, done, fates = 1, False, collections.Counter()
    while not done:
        with kernel(registry.get(name), ram="32M") as k:
            a = k.vmalloc(2 * PAGE)
            k.vwrite(a, b"before")
            k.mm_alloc()
            before, stopped = state(k), False
            try:
                done = interrupt(lambda k=k, a=a: call(k, a), moment) < moment
            except Stop:
                stopped = True
                fates["dead" if k.dead else "as before"] += 1
            if isinstance(k.dead, KernelInterrupted):
                for use in (lambda k=k: k.vmalloc(1), k.check, k.vmallocinfo, lambda k=k, a=a: k.vread(a, 1),
                            lambda k=k, a=a: k.cpu.load(a, 1), lambda k=k, a=a: k.cpu.store(a, b"x"),
                            lambda k=k: k.alloc_pages(1, GFP_KERNEL, -1)):  # fmt: skip
                    with pytest.raises(KernelDead, match=r"was cut short by an interrupt and may be half done"):
                        use()
            elif stopped:
                assert k.dead is None
                assert state(k) == before
                k.check()
                k.vfree(k.vmalloc(1))
            assert not k.vmlist_lock.locked()
            assert not k.init_mm.lock.locked()
        moment += 1 if moment < 10 else step
    assert fates["as before"]


def work(k, kind, rng, live):
    """Do one random operation of a workload."""
    if kind == "areas":
        if len(live) < 20 or (rng.random() < 0.5 and len(live) < 200):
            live.append(k.vmalloc(rng.choice([PAGE, 2 * PAGE, 10 * PAGE])))
        else:
            k.vfree(live.pop(rng.randrange(len(live))))
    elif kind == "maps":
        frames = k.alloc_pages(4, GFP_KERNEL, -1)
        k.vunmap(k.vmap(frames, 4, int(VM.MAP), k.page_kernel))
        k.free_pages(frames)
        k.iounmap(k.ioremap(1 << 24, 3 * PAGE))
    elif kind == "bytes":
        if not live:
            live.append(k.vmalloc(64 * PAGE))
        k.vwrite(live[0] + rng.randrange(32 * PAGE), bytes(rng.randrange(1, 20 * PAGE)))
        k.vread(live[0], rng.randrange(1, 64 * PAGE))
    else:
        k.switch_mm(0, k.mm_alloc())
        k.vmalloc_sync_all()
        k.vfree(k.vmalloc(500 * PAGE))


def work_until(fired, *arguments):
    """Work until a signal came: Python drops an exception that comes as a generator ends."""
    while not fired:
        work(*arguments)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a signal as a generator ends
@pytest.mark.parametrize("kind", ["areas", "maps", "bytes", "processes"])
def test_real_signals_at_random_moments(kernel, registry, kind):
    fired = []

    def stop(number, frame):
        fired.append(number)
        raise Stop

    before, rng = signal.signal(signal.SIGVTALRM, stop), random.Random(kind)
    try:
        for _ in range(100):
            with kernel(registry.get(rng.choice(["i386", "armv5"])), ram="64M") as k:
                live = []
                fired.clear()
                try:
                    signal.setitimer(signal.ITIMER_VIRTUAL, rng.uniform(0.0005, 0.01))
                    work_until(fired, k, kind, rng, live)
                except Stop:
                    pass
                assert not k.vmlist_lock.locked()
                if k.dead is None:
                    k.check()
                    k.vfree(k.vmalloc(PAGE))
                else:
                    assert isinstance(k.dead, KernelInterrupted)
                    with pytest.raises(KernelDead, match="cut short by an interrupt"):
                        k.vmalloc(PAGE)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def test_a_second_interrupt_changes_nothing(kernel, arch):
    k = kernel(arch, ram="64M")
    k.vfree(k.vmalloc(PAGE))  # the first one makes page tables
    with pytest.raises(Stop):
        interrupt(lambda: k.vmalloc(PAGE), interrupt(lambda: k.vfree(k.vmalloc(PAGE)), 0) // 4)
    first = k.dead
    with pytest.raises(KernelDead) as caught:
        k.vfree(0)
    assert (k.dead, caught.value.cause, first.function) == (first, first, first.function)
    assert str(caught.value).startswith(f"this kernel is dead ({first.function}() was cut short")


def test_a_mistaken_argument_does_not_end_the_kernel(kernel, arch):
    k = kernel(arch, ram="64M")
    for mistake in (lambda: k.vmalloc("4096"), lambda: k.vfree(None), lambda: k.vwrite(b"", 1)):
        with pytest.raises((TypeError, ArgumentError)):
            mistake()
    assert k.dead is None
    k.check()


@pytest.mark.parametrize("error", [TypeError, ValueError, AttributeError, OSError])
def test_a_signal_handler_may_raise_anything_in_a_load_or_a_store(kernel, arch, error):
    for access in (lambda k, a: k.cpu.load(a, 2 * PAGE), lambda k, a: k.cpu.store(a, bytes(2 * PAGE))):
        k = kernel(arch, ram="64M")
        address = k.vmalloc(2 * PAGE)

        def fill(*_, **__):
            raise error  # as a handler of a signal does that arrives here

        k.cpu.tlb.fill = k.cpu.tlb.fill_many = fill
        with pytest.raises(error):
            access(k, address)
        assert isinstance(k.dead, KernelInterrupted)
        with pytest.raises(KernelDead):
            k.cpu.load(address, 1)


def test_numpy_is_given_no_enum_member(kernel, arch, monkeypatch):
    """numpy asks a member for attributes, which runs Python code, and drops an exception raised there."""
    asked = []
    monkeypatch.setattr(enum.EnumType, "__getattr__", lambda cls, name: asked.append((cls, name)), raising=False)
    k = kernel(arch, ram="64M", check_coherence=True)
    address = k.vmalloc(5 * PAGE)
    k.vwrite(address, bytes(5 * PAGE))
    k.vread(address, 5 * PAGE)
    k.vfree(address)
    assert [name for _, name in asked if name.startswith("__array")] == []
