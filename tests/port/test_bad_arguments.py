"""A call that is refused changes nothing: every public call, with bad arguments of every kind."""

import numpy as np
import pytest
from attrs import astuple

from vmcore.errors import ArgumentError, BrokenInvariant, BusError, ConfigurationError, VmcoreError
from vmcore.flags import GFP_KERNEL, VM
from vmcore.kernel import Kernel
from vmcore.machine.faults import FAULT_KINDS
from vmcore.port.structs import VmAreaStruct

RAM = 64 << 20
FLAGS, GFP = int(VM.ALLOC), GFP_KERNEL

#: In place of a number.
NO_NUMBERS = {
    "None": None,
    "text": "4096",
    "fraction": 4096.5,
    "whole fraction": 0.0,
    "list": [1],
    "array": np.zeros(2, np.int64),
    "object": object(),
}
#: In place of pages.
NO_PAGES = {
    "None": None,
    "text": "4096",
    "fractions": [1.5, 2.5],
    "texts": ["1", "2"],
    "a table": [[1], [2]],
    "objects": [None, None],
    "too few": [1],
    "negative": [1, -2],
    "too large": np.full(2, 1 << 63, np.uint64),
}
#: In place of bytes.
NO_BYTES = {
    "None": None,
    "number": 7,
    "text": "abc",
    "list": [1, 2],
    "every other": memoryview(b"abcdef")[::2],
    "columns": np.zeros((4, 4), np.uint8).T,
    "objects": np.array([None]),
}
NO_OBJECTS = {"None": None, "text": "x", "number": 3}


class Scene:
    """A kernel with something of everything in it."""

    def __init__(self, kernel, arch):
        k = self.k = kernel(arch, ram=RAM)
        page = self.page = k.arch.page_size
        self.addr, self.user = k.vmalloc(3 * page), k.vmalloc_user(2 * page)
        self.area = k.get_vm_area(2 * page, FLAGS)
        self.vma = VmAreaStruct(16 * page, 18 * page)
        self.frames = k.alloc_pages(2, GFP, -1)
        k.vfree(k.vmalloc(2 * page))
        self.mm = k.mm_alloc()
        self.handle = k.kmalloc(64, GFP, -1)
        k.cpu.load(self.addr, 1)

    def state(self):
        k = self.k
        areas = [
            (*astuple(a, filter=lambda f, _: f.name != "pages"), None if a.pages is None else a.pages.tolist())
            for a in (*k.vmlist, self.area)
        ]
        zones = [(z.free, tuple(z.fresh), z.given_back().tolist()) for node in k.pages.zones for z in node]
        return {
            "areas": areas,
            "objects": dict(k.slab._sizes),
            "pages": (k.pages.pages_in_use, zones),
            "entries": [part.tobytes() for part in k.init_mm.entries()],
            "tables": dict(k.init_mm.tables),
            "log": (list(k.dmesg), list(k.warnings)),
            "flushes": {name: (count.calls, count.pages) for name, count in k.flush_counts.items()},
            "processes": (list(k.pgd_list), [cpu.mm for cpu in k.cpus]),
            "user mapping": (self.vma.inserted.tolist(), self.vma.vm_flags),
            "bytes": [k.memory.read(f << k.arch.page_shift, self.page) for f in self.frames.tolist()],
            "rest": (
                k.dead,
                k.syncs,
                [getattr(k.faults, kind) for kind in FAULT_KINDS],
                dict(k.statics),
            ),
        }


#: call -> its arguments: (in place of it, a good one)
NUMBER = NO_NUMBERS
CALLS = {
    "vmalloc": lambda s: [(NUMBER, s.page)],
    "vmalloc_user": lambda s: [(NUMBER, s.page)],
    "vmalloc_exec": lambda s: [(NUMBER, s.page)],
    "vmalloc_32": lambda s: [(NUMBER, s.page)],
    "vmalloc_32_user": lambda s: [(NUMBER, s.page)],
    "vmalloc_node": lambda s: [(NUMBER, s.page), (NUMBER, 0)],
    "raw_vmalloc": lambda s: [(NUMBER, s.page), (NUMBER, GFP), (NUMBER, s.k.page_kernel)],
    "raw_vmalloc_area": lambda s: [(NO_OBJECTS, s.area), (NUMBER, GFP), (NUMBER, s.k.page_kernel)],
    "raw_vmalloc_area_node": lambda s: [
        (NO_OBJECTS, s.area),
        (NUMBER, GFP),
        (NUMBER, s.k.page_kernel),
        (NUMBER, 0),
    ],
    "raw_get_vm_area_node": lambda s: [
        (NUMBER, s.page),
        (NUMBER, FLAGS),
        (NUMBER, s.k.layout.vmalloc_start),
        (NUMBER, s.k.layout.vmalloc_end),
        (NUMBER, 0),
        (NUMBER, GFP),
        (NUMBER, 1),
    ],
    "raw_get_vm_area": lambda s: [
        (NUMBER, s.page),
        (NUMBER, FLAGS),
        (NUMBER, s.k.layout.vmalloc_start),
        (NUMBER, s.k.layout.vmalloc_end),
    ],
    "get_vm_area": lambda s: [(NUMBER, s.page), (NUMBER, FLAGS)],
    "get_vm_area_node": lambda s: [(NUMBER, s.page), (NUMBER, FLAGS), (NUMBER, 0), (NUMBER, GFP)],
    "alloc_vm_area": lambda s: [(NUMBER, s.page)],
    "free_vm_area": lambda s: [(NO_OBJECTS, s.area)],
    "remove_vm_area": lambda s: [(NUMBER, s.addr)],
    "vfree": lambda s: [(NUMBER, s.addr)],
    "vunmap": lambda s: [(NUMBER, s.addr)],
    "vmap": lambda s: [(NO_PAGES, s.frames), (NUMBER, 2), (NUMBER, FLAGS), (NUMBER, s.k.page_kernel)],
    "map_vm_area": lambda s: [(NO_OBJECTS, s.area), (NUMBER, s.k.page_kernel), (NO_PAGES, s.frames)],
    "unmap_kernel_range": lambda s: [(NUMBER, s.addr), (NUMBER, s.page)],
    "vwrite": lambda s: [(NUMBER, s.addr), (NO_BYTES, b"hello")],
    "remap_vmalloc_range": lambda s: [(NO_OBJECTS, s.vma), (NUMBER, s.user), (NUMBER, 0)],
    "ioremap": lambda s: [(NUMBER, 0x10000000), (NUMBER, s.page), (NO_NUMBERS_BUT_NONE, s.k.page_kernel)],
    "iounmap": lambda s: [(NUMBER, s.addr)],
    "kmalloc": lambda s: [(NUMBER, 64), (ANYTHING, GFP), (ANYTHING, 0)],  # an account: it looks at the size only
    "kfree": lambda s: [(NO_HANDLES, s.handle)],
    "alloc_pages": lambda s: [(NUMBER, 2), (NUMBER, GFP), (NUMBER, 0)],
    "free_pages": lambda s: [(NO_FRAMES, s.frames)],
    "fail": lambda s: [(NO_OBJECTS, "kmalloc"), (NUMBER, 1)],
    "switch_mm": lambda s: [(NUMBER, 0), (NO_OBJECTS_BUT_NONE, s.mm)],
    "mm_free": lambda s: [(NO_OBJECTS, s.mm)],
    "mm_alloc": lambda s: [],
}
NO_NUMBERS_BUT_NONE = {name: value for name, value in NO_NUMBERS.items() if value is not None}
NO_OBJECTS_BUT_NONE = {name: value for name, value in NO_OBJECTS.items() if value is not None}
NO_HANDLES = {"text": "x", "unknown": 10**6, "negative": -1}
NO_FRAMES = {
    "None": None,
    "list": [1, 2],
    "negative": np.array([-1, -2]),
    "fractions": np.array([4096.5, 4097.5]),
    "where no RAM is": np.array([1 << 40, 1 << 41]),
    "free": np.array([5000, 5001]),
}
ANYTHING = {}

#: What reads, and what only symbols of an architecture and other tools call.
READERS = {
    "check",
    "current_mm",
    "explain",
    "find_vm_area",
    "lines",
    "protection",
    "save",
    "vmalloc_to_page",
    "vmalloc_to_pfn",
    "vmallocinfo",
    "vread",
}
MACHINERY = {
    "bug_on",
    "check_num_physpages",
    "close",
    "entry_bits",
    "flush",
    "flush_cache_all",
    "flush_tlb_all",
    "flush_tlb_pages",
    "interrupt",
    "lock_vmlist",
    "on_cpu",
    "oops",
    "printk",
    "tables_below",
    "vmalloc_sync_all",
}


def test_every_public_call_is_here():
    public = {n for n in dir(Kernel) if not n.startswith("_") and callable(getattr(Kernel, n))}
    assert public - READERS - MACHINERY == {name for name in CALLS if not name.startswith("_")}


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_argument_is_refused_before_anything_changes(arch, kernel, name):
    scene = Scene(kernel, arch)
    before = scene.state()
    arguments = CALLS[name](scene)
    for position, (bad, _) in enumerate(arguments):
        for kind, value in bad.items():
            called = [good for _, good in arguments]
            called[position] = value
            with pytest.raises((TypeError, AttributeError, VmcoreError)) as caught:
                getattr(scene.k, name)(*called)
            assert scene.k.dead is None, f"{kind} as argument {position}: {caught.value!r}"
            after = scene.state()
            changed = [key for key in before if before[key] != after[key]]
            assert changed == [], f"{kind} as argument {position}: {caught.value!r}"
    scene.k.check()
    getattr(scene.k, name)(*(good for _, good in arguments))  # and the good ones are good


REFUSED = {
    "a node that is not there": (
        lambda s: s.k.vmalloc_node(8192, 7),
        ConfigurationError,
        "node 7: this machine has",
    ),
    "a node for a descriptor": (
        lambda s: s.k.get_vm_area_node(8192, FLAGS, 7, GFP),
        ConfigurationError,
        "node 7: ",
    ),
    "a node for pages": (lambda s: s.k.alloc_pages(1, GFP, 7), ConfigurationError, "node 7: "),
    "a negative protection": (
        lambda s: s.k.vmap(s.frames, 2, FLAGS, -1),
        ArgumentError,
        "vmap: found protection -0x1",
    ),
    "a wide protection": (
        lambda s: s.k.raw_vmalloc(1, GFP, 1 << 64),
        ArgumentError,
        "__vmalloc: found protection 0x1",
    ),
    "a protection of an area": (
        lambda s: s.k.raw_vmalloc_area(s.area, GFP, 1 << 64),
        ArgumentError,
        "__vmalloc_area: ",
    ),
    "a protection to map": (
        lambda s: s.k.map_vm_area(s.area, -1, s.frames),
        ArgumentError,
        "map_vm_area: found prot",
    ),
    "a protection of I/O": (
        lambda s: s.k.ioremap(0x10000000, 1, 1 << 64),
        ArgumentError,
        "ioremap: found protection",
    ),
    "a negative frame": (
        lambda s: s.k.vmap([1, -5], 2, FLAGS, s.k.page_kernel),
        ArgumentError,
        r"vmap: found -0x5 in the page array, expected frames, .* \(NO_FRAME, -1, for NULL\)",
    ),
    "pages to take": (
        lambda s: s.k.alloc_pages(-1, GFP, -1),
        ArgumentError,
        "alloc_pages: found -1 pages, expected 0",
    ),
    "bytes to take": (lambda s: s.k.kmalloc(-1, GFP, -1), ArgumentError, "kmalloc: found -1 bytes, expected 0"),
    "frames of no RAM": (lambda s: s.k.free_pages(np.array([-1, -2])), BusError, "no RAM there"),
    "frames twice": (lambda s: s.k.free_pages(np.array([*s.frames, s.frames[0]])), BrokenInvariant, "freed"),
    "a process' own": (lambda s: s.k.mm_free(s.k), ConfigurationError, "expected a process that mm_alloc"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_number_is_refused_before_anything_changes(arch, kernel, case):
    scene = Scene(kernel, arch)
    call, error, text = REFUSED[case]
    before = scene.state()
    with pytest.raises(error, match=text):
        call(scene)
    assert scene.state() == before
    scene.k.check()


@pytest.mark.parametrize("node", [-1, -2, -(1 << 31)])
def test_any_negative_node_means_any(arch, kernel, node):
    k = kernel(arch, ram=RAM, nodes=2)
    addr, area = k.vmalloc_node(8192, node), k.get_vm_area_node(4096, FLAGS, node, GFP)
    k.free_vm_area(area)
    k.vfree(addr)
    assert (len(k.vmlist), k.slab.live_objects) == (0, 0)


def test_numbers_of_numpy_are_numbers(arch, kernel):
    scene = Scene(kernel, arch)
    k, page = scene.k, np.int64(scene.page)
    addr = k.vmalloc(page)
    k.vfree(np.uint64(addr))
    k.vunmap(k.vmap(scene.frames.astype(np.uint32), np.int8(2), np.int16(FLAGS), np.uint64(k.page_kernel)))
    k.free_pages(k.alloc_pages(np.int64(2), np.int64(GFP), np.int64(-1)))
    k.free_vm_area(k.get_vm_area(page, np.int64(FLAGS)))
    assert type(k.get_vm_area(page, VM.IOREMAP).flags) is int


def test_addresses_wrap_at_the_word_as_in_c(arch, kernel):
    k = kernel(arch, ram=RAM)
    whole = k.arch.word_mask + 1
    addr = k.vmalloc(8192)
    assert k.find_vm_area(addr - whole) is k.find_vm_area(addr + whole) is k.find_vm_area(addr)
    k.unmap_kernel_range(addr - whole, k.arch.page_size)
    assert k.vmalloc_to_page(addr) is None
    k.vfree(addr + whole)
    k.vfree(-k.arch.page_size)
    assert k.dmesg[-1] == f"<3>Trying to vfree() nonexistent vm area ({whole - k.arch.page_size:x})\n"
