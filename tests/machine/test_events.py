"""Events: exact arguments, no call where nobody listens, and nobody may call back into vmalloc."""

import numpy as np
import pytest

from tests.support.listening import Recorder
from vmcore.errors import KernelBug, KernelDead, KernelOops, OutOfMemory, PluginError
from vmcore.flags import VM
from vmcore.hookspecs import hookimpl
from vmcore.machine.symbols import FLUSH_LOG
from vmcore.port.structs import VmAreaStruct

RAM = 64 << 20
NO_SPACE = "<4>allocation failed: out of vmalloc space - use vmalloc=<size> to increase size.\n"


@pytest.fixture
def heard():
    return Recorder()


@pytest.fixture
def k(arch, kernel, heard):
    k = kernel(arch, ram=RAM, listeners=[heard])
    heard.take()  # tables made at boot
    return k


def test_the_story_of_one_area(k, heard):
    arch, page, start = k.arch, k.arch.page_size, k.layout.vmalloc_start
    addr = k.vmalloc(2 * page)
    area = k.find_vm_area(addr)
    frames, (entries, tables) = area.pages.tolist(), (k.init_mm.entries()[1].tolist(), [])
    for depth, (level, below) in enumerate(zip(arch.levels, arch.levels[1:], strict=False)):
        if not level.prebuilt:
            tables.append(("table_allocated", below.name, addr, level.decode(k.init_mm.entry(addr, depth)[1])))
    zone = "HIGHMEM" if "HIGHMEM" in arch.zone_names else "NORMAL"
    assert heard.take() == [
        ("kmalloc", arch.sizeof_vm_struct, -1, 0xD0, area.handle),
        ("area_added", start, 3 * page, VM.ALLOC),
        ("kmalloc", 2 * arch.pointer_bytes, -1, 0x80D0, area.pages_handle),
        ("pages_allocated", -1, 0xD2, zone, frames, False),
        *tables,
        ("range_mapped", addr, entries, frames),
        ("flush", "flush_cache_vmap", addr, addr + 2 * page),
    ]
    k.vfree(addr)
    assert heard.take() == [
        ("flush", "flush_cache_vunmap", addr, addr + 3 * page),
        ("range_cleared", addr, entries),
        ("flush", "flush_tlb_kernel_range", addr, addr + 3 * page),
        ("area_removed", addr, 3 * page, VM.ALLOC),
        ("pages_freed", frames),
        ("kfree", area.pages_handle),
        ("kfree", area.handle),
    ]


def test_failures_are_heard(k, heard):
    page = k.arch.page_size
    k.fail("kmalloc", 1)
    with pytest.raises(OutOfMemory):
        k.vmalloc(page)
    assert heard.take() == [("kmalloc", k.arch.sizeof_vm_struct, -1, 0xD0, None)]
    k.fail("alloc_page", 2)
    with pytest.raises(OutOfMemory):
        k.vmalloc(3 * page)
    (allocated,) = heard.of("pages_allocated")
    assert (len(allocated[4]), allocated[5]) == (1, True)
    assert heard.of("pages_freed") == [("pages_freed", allocated[4])]
    heard.take()
    k.fail("pgtable", 1)
    with pytest.raises(OutOfMemory):
        k.vmalloc(page)
    (refused,) = heard.of("table_allocated")
    assert refused[2:] == (k.layout.vmalloc_start, None)
    heard.take()
    first = k.get_vm_area(page, 2)
    with pytest.raises(MemoryError):
        k.get_vm_area(k.layout.vmalloc.size, 2)
    assert heard.of("printk", "kfree") == [("kfree", first.handle + 1), ("printk", NO_SPACE)]


def test_a_run_ends_at_a_new_table_a_warning_and_a_hole(k, heard):
    page, span = k.arch.page_size, 1 << k.arch.levels[-2].shift
    k.get_vm_area(2 * span - 4 * page - k.layout.vmalloc_start % span, 2)  # the next area crosses a table
    area = k.get_vm_area(6 * page, VM.MAP)
    assert (area.addr + 3 * page) % span == 0
    frames = np.arange(0x900, 0x906)
    k.map_vm_area(area, k.page_kernel, frames)
    runs = heard.of("range_mapped")
    assert [(r[1], r[3]) for r in runs] == [
        (area.addr, [0x900, 0x901, 0x902]), (area.addr + 3 * page, [0x903, 0x904, 0x905]),
    ]  # fmt: skip
    k.unmap_kernel_range(area.addr, page)
    heard.take()
    k.map_vm_area(area, k.page_kernel, frames)
    order = [(e[0], e[3]) if e[0] == "range_mapped" else e[0] for e in heard.take()]
    assert order[:6] == [
        ("range_mapped", [0x900]), "warn", ("range_mapped", [0x901]), "warn", ("range_mapped", [0x902]), "warn",
    ]  # fmt: skip
    k.unmap_kernel_range(area.addr + page, page)
    heard.take()
    k.unmap_kernel_range(area.addr, 6 * page)
    cleared = [(e[1], len(e[2])) for e in heard.of("range_cleared")]
    assert cleared == [(area.addr, 1), (area.addr + 2 * page, 1), (area.addr + 3 * page, 3)]


def test_sync_insertion_warnings_bug_and_oops(k, heard):
    page = k.arch.page_size
    k.alloc_vm_area(page)
    assert heard.of("sync") == [("sync",)]
    addr = k.vmalloc_user(3 * page)
    frames = k.find_vm_area(addr).pages.tolist()
    vma = VmAreaStruct(16 * page, 18 * page)
    k.remap_vmalloc_range(vma, addr, 1)
    with pytest.raises(OSError, match="a page is there already"):
        k.remap_vmalloc_range(vma, addr, 0)
    assert heard.of("page_inserted") == [
        ("page_inserted", 16 * page, frames[1:], 0), ("page_inserted", 16 * page, frames[:1], -16),
    ]  # fmt: skip
    heard.take()
    k.vfree(addr + page)
    digits = k.arch.word_bits // 4
    assert heard.take() == [
        ("printk", f"<3>Trying to vfree() nonexistent vm area ({addr + page:0{digits}x})\n"),
        ("warn", "1", "__vunmap"),
    ]
    k.unmap_kernel_range(addr, page)
    heard.take()
    with pytest.raises(KernelOops):
        k.vread(addr, 1)
    assert heard.take() == [("oops", addr, "read")]


def test_a_bug_is_heard_before_it_is_raised(k, heard):
    with pytest.raises(KernelBug):
        k.unmap_kernel_range(0, 0)
    assert heard.take() == [("bug", "addr >= end", "unmap_kernel_range")]


def test_zero_bytes_and_null_are_heard(k, heard):
    k.kfree(None)
    k.kfree(16)
    assert k.kmalloc(0, 0xD0, -1) == 16
    assert heard.take() == [("kfree", None), ("kfree", 16), ("kmalloc", 0, -1, 0xD0, 16)]


def test_arrays_cannot_be_written(arch, kernel):
    class Scribbler:
        tried = 0

        @hookimpl
        def vmcore_range_mapped(self, entries, frames):
            for array in (entries, frames):
                with pytest.raises(ValueError, match="read-only"):
                    array[0] = 0
            Scribbler.tried += 1

        @hookimpl
        def vmcore_pages_allocated(self, frames):
            with pytest.raises(ValueError, match="read-only"):
                frames[0] = 0

        @hookimpl
        def vmcore_range_cleared(self, entries):
            with pytest.raises(ValueError, match="read-only"):
                entries[0] = 0

    k = kernel(arch, ram=RAM, listeners=[Scribbler()])
    k.vfree(k.vmalloc(arch.page_size))
    assert Scribbler.tried == 1


def test_nobody_listening_costs_no_call(arch, kernel):
    assert not any(
        getattr(kernel(arch, ram=RAM).events, name) for name in kernel(arch).events.__slots__ if name[0] != "_"
    )

    class One:
        @hookimpl
        def vmcore_sync(self):
            pass

    k = kernel(arch, ram=RAM, listeners=[One()])
    assert [n for n in k.events.__slots__ if n[0] != "_" and getattr(k.events, n) is not None] == ["sync"]


CALLS_BACK = {
    "vmalloc": lambda k: k.vmalloc(1), "vfree": lambda k: k.vfree(0), "get_vm_area": lambda k: k.get_vm_area(1, 2),
    "find_vm_area": lambda k: k.find_vm_area(1), "vread": lambda k: k.vread(1, 1),
    "remove_vm_area": lambda k: k.remove_vm_area(1), "vwrite": lambda k: k.vwrite(1, b"x"),
}  # fmt: skip


class CallsBack:
    """Calls back into vmalloc from an event that runs under vmlist_lock."""

    def __init__(self, call):
        self.kernel, self.call = None, call

    @hookimpl
    def vmcore_area_removed(self):
        self.call(self.kernel)


@pytest.mark.parametrize("call", CALLS_BACK.values(), ids=CALLS_BACK)
def test_a_listener_that_calls_back_is_a_bug(arch, kernel, call):
    listener = CallsBack(call)
    listener.kernel = k = kernel(arch, ram=RAM, listeners=[listener])
    addr = k.vmalloc(1)
    with pytest.raises(KernelBug) as caught:
        k.vfree(addr)
    assert (caught.value.condition, caught.value.function) == ("recursive vmlist_lock", "write_lock")
    assert (k.vmlist_lock.locked(), k.dead) == (False, caught.value)
    with pytest.raises(KernelDead):
        k.vmalloc(1)


@pytest.mark.parametrize("symbol", ["flush_cache_vmap", "flush_cache_vunmap", "flush_tlb_kernel_range"])
def test_a_flush_symbol_that_calls_back_is_a_bug(arch, kernel, symbol):
    class Plugin:
        pass

    def wrapper(self, arch):
        yield
        return lambda kernel, cpu, start, end: kernel.vmalloc(1)

    wrapper.__name__ = f"vmcore_{symbol}"
    setattr(Plugin, wrapper.__name__, hookimpl(wrapper=True)(wrapper))
    k = kernel(arch, ram=RAM, listeners=[Plugin()])
    with pytest.raises(KernelBug) as caught:
        k.vfree(k.vmalloc(1))
    assert caught.value.condition == "recursive vmlist_lock"
    assert not k.vmlist_lock.locked()


def test_a_sync_symbol_that_calls_back_is_a_bug(arch, kernel):
    class Plugin:
        @hookimpl(wrapper=True)
        def vmcore_vmalloc_sync_all(self, arch):
            yield
            return lambda kernel: kernel.vmalloc(1)

    k = kernel(arch, ram=RAM, listeners=[Plugin()])
    with pytest.raises(KernelBug, match="recursive vmlist_lock"):
        k.alloc_vm_area(1)


# ---- plugins that raise


@pytest.mark.parametrize("event", ["area_added", "range_mapped", "range_cleared", "flush", "area_removed"])
def test_a_listener_that_raises_is_named_and_no_lock_stays_held(arch, kernel, event):
    def hook(self):
        raise ZeroDivisionError("by zero")

    Raises = type("Raises", (), {f"vmcore_{event}": hookimpl(hook)})
    k = kernel(arch, ram=RAM, listeners=[Raises()])
    with pytest.raises(PluginError) as caught:
        k.vfree(k.vmalloc(1))
    assert (caught.value.plugin, caught.value.module) == ("listener 0", "Raises")
    assert caught.value.cause == f"its vmcore_{event} raised ZeroDivisionError: by zero"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert (k.vmlist_lock.locked(), k.init_mm.lock.locked(), k.dead) == (False, False, None)


def test_a_flush_symbol_that_raises_is_named_and_no_lock_stays_held(arch, kernel):
    class Raises:
        @hookimpl(wrapper=True)
        def vmcore_flush_cache_vunmap(self, arch):
            yield
            return lambda kernel, cpu, start, end: start // 0

    k = kernel(arch, ram=RAM, listeners=[Raises()])
    with pytest.raises(PluginError, match="its flush_cache_vunmap raised ZeroDivisionError") as caught:
        k.vfree(k.vmalloc(1))
    assert caught.value.plugin.endswith("listener 0")
    assert not k.vmlist_lock.locked()


# ---- flushes


def test_the_flush_log_and_the_counts(k):
    page = k.arch.page_size
    addr = k.vmalloc(3 * page)
    k.vfree(addr)
    assert [(f.symbol, f.cpu, f.start, f.end) for f in k.flush_log] == [
        ("flush_cache_vmap", 0, addr, addr + 3 * page),
        ("flush_cache_vunmap", 0, addr, addr + 4 * page),
        ("flush_tlb_kernel_range", 0, addr, addr + 4 * page),
    ]
    counts = {name: (count.calls, count.pages) for name, count in k.flush_counts.items()}
    assert counts == {"flush_cache_vmap": (1, 3), "flush_cache_vunmap": (1, 4), "flush_tlb_kernel_range": (1, 4)}
    for _ in range(FLUSH_LOG):
        k.unmap_kernel_range(addr, page)
    assert (len(k.flush_log), k.flush_counts["flush_tlb_kernel_range"].calls) == (FLUSH_LOG, FLUSH_LOG + 1)


@pytest.mark.parametrize(
    ("name", "cpus", "cache", "tlb"),
    [("i386", 4, (), (("tlb", "all", 4, 0),)), ("x86_64", 1, (), (("tlb", "all", 1, 0),)),
     ("armv5", 1, (("cache", "all", 1, 0),), (("tlb", "pages", 1, 0),)),
     ("armv7", 2, (("cache", "all", 1, 0),), (("tlb", "pages", 2, 0),))],
)  # fmt: skip
def test_what_flushes_did(kernel, name, cpus, cache, tlb):
    k = kernel(name, ram=RAM, cpus=cpus)
    k.vfree(k.vmalloc(1))
    assert [flush.actions for flush in k.flush_log] == [cache, cache, tlb]


def test_a_wrapper_that_drops_a_flush(arch, kernel):
    class Drops:
        @hookimpl(wrapper=True)
        def vmcore_flush_tlb_kernel_range(self, arch):
            inner = yield

            def sometimes(kernel, cpu, start, end):
                if end - start > 2 * kernel.arch.page_size:
                    inner(kernel, cpu, start, end)

            return sometimes

    k, plain = kernel(arch, ram=RAM, listeners=[Drops()]), kernel(arch, ram=RAM)
    for pages in (1, 2):
        for machine in (k, plain):
            machine.vfree(machine.vmalloc(pages * arch.page_size))
    dropped, kept = (f.actions for f in k.flush_log if f.symbol == "flush_tlb_kernel_range")
    done = [f.actions for f in plain.flush_log if f.symbol == "flush_tlb_kernel_range"]
    assert (dropped, kept) == ((), done[1])
    assert k.flush_counts["flush_tlb_kernel_range"].calls == 2
