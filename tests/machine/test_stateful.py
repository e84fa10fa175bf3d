"""Any order of calls, by several CPUs and processes, with failures injected: beside a model of dicts and lists.

The model knows where first fit puts an area, which frame each page of kernel space maps, and every byte that was
stored. A byte that nothing stored is whatever is read first, and stays that. With a flush dropped, a wrong byte
must have been reported; with all of them in place, nothing may be.

`pytest --hypothesis-profile thorough` tries many more.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.dropping import DROPPING, linear
from vmcore.errors import BusError, KernelBug, KernelDead, KernelError, OutOfMemory, PageFault
from vmcore.flags import EBUSY, ENOMEM, GFP, GFP_KERNEL, NO_FRAME, VM
from vmcore.kernel import Kernel
from vmcore.linking.registry import load
from vmcore.machine.faults import FAULT_KINDS
from vmcore.port.structs import VmAreaStruct

RECORDS = {"i386": "128M", "i386-pae-highmem": "1G", "x86_64": "128M", "armv5": "128M", "armv7-highmem": "1G"}
FAMILY = ("vmalloc", "vmalloc_user", "vmalloc_32", "vmalloc_32_user", "vmalloc_exec", "vmalloc_node")
PAGE, DEVICE = 4096, -2  # a page that no RAM answers at
AREAS, PROCESSES = 12, 3
FAULT = st.one_of(st.none(), st.tuples(st.sampled_from(FAULT_KINDS[:3]), st.integers(1, 3)))
ACCESS = st.tuples(
    st.integers(0, 1),
    st.integers(0, 99),
    st.sampled_from([0, 4, 30, 2048, 4090]),
    st.sampled_from([1, 4, 8, 64]),
    st.sampled_from(["load", "load", "store", "store", "fetch"]),
    st.integers(0, 255),
)
REGISTRY = load()


class Area:
    """An area as the model has it: bytes with the guard page, and how it is given back."""

    def __init__(self, addr, size, free, frames=()):
        self.addr, self.size, self.free, self.frames = addr, size, free, list(frames)
        self.array = None  # the area of its page array
        self.user = False


class Machines(RuleBasedStateMachine):
    """One record's machine; `of` makes a class for each."""

    record, ram = "", ""

    @initialize(watched=st.booleans(), dropped=st.sampled_from([None, None, *DROPPING]), cpus=st.integers(1, 2))
    def boot(self, watched, dropped, cpus):
        self.choice = watched, dropped, cpus
        arch = REGISTRY.get(self.record)
        self.dropped = dropped if watched else None
        self.k = k = Kernel(
            self.record,
            ram=self.ram,
            cpus=min(cpus, arch.max_cpus),
            check_coherence=watched,
            listeners=[DROPPING[self.dropped]()] if self.dropped else [],
            registry=REGISTRY,
        )
        self.cached = k.cpu.cache is not None
        never = k.page_kernel & ~k.protection(
            "PAGE_KERNEL_EXEC"
        )  # the bit that forbids to fetch, where there is one
        self.executable = not never
        self.device_code = not dict(arch.protections).get("IOREMAP", k.page_kernel) & never
        self.areas, self.pages = {}, {}  # by address; page number: (frame, executable)
        self.bytes = {}  # by frame: int16, -1: not known
        self.mine, self.hoard = [], None  # frames the caller has; the rest of the top zone
        self.mms, self.mm_pages, self.gone = [None], 0, []
        self.begun = k.pages.pages_in_use - self.tables()
        self.over = False
        self.steps = 0

    @precondition(lambda self: self.over)
    @rule()
    def boot_again(self):
        """Go on with a new kernel, when this one is dead or a flush was missed."""
        self.teardown()
        self.boot(*self.choice)

    # ---- the model

    def tables(self):
        """Count pages that hold tables of init_mm."""
        found = [np.unique(t >> self.k.page_shift) for t in self.k.init_mm.table_addresses().values()]
        return sum(map(len, found))

    def place(self, size, align=1):
        """Return where first fit puts an area (size with its guard page), None: nowhere."""
        at, end = -(-self.k.layout.vmalloc_start // align) * align, self.k.layout.vmalloc_end
        for area in sorted(self.areas.values(), key=lambda a: a.addr):
            if at + size <= area.addr:
                return at
            at = -(-(area.addr + area.size) // align) * align
            if at > end - size:
                return None
        return at

    def aligned(self, size):
        """Return the alignment of an area that ioremap or alloc_vm_area asks for."""
        return 1 << min(max(size.bit_length(), 12), self.k.arch.ioremap_max_order)

    def known(self, frame):
        return self.bytes.setdefault(frame, np.full(PAGE, -1, np.int16))

    def enter(self, addr, frames, executable=False):
        for n, frame in enumerate(frames):
            self.pages[addr // PAGE + n] = frame, executable or self.executable

    def forget(self, addr, size):
        for page in range(addr // PAGE, (addr + size) // PAGE):
            self.pages.pop(page, None)

    def mapped(self):
        return {frame for frame, _ in self.pages.values()}

    def keep(self, area):
        assert not any(a.addr < area.addr + area.size and area.addr < a.addr + a.size for a in self.areas.values())
        self.areas[area.addr] = area
        return area

    def new(self, frames):
        """Take frames that were handed out: nobody may have them."""
        owned = {f for area in self.areas.values() for f in area.frames if area.free in ("vfree", None)}
        assert len(set(frames)) == len(frames)
        assert not (owned | set(self.mine)) & set(frames)
        assert self.hoard is None or not np.isin(frames, self.hoard).any()
        for frame in self.bytes.keys() & set(frames):
            del self.bytes[frame]
        return frames

    def told(self):
        """Tell whether the checker found something; then this run is over."""
        self.over = self.over or (self.k.coherence is not None and self.k.coherence.found.total() > 0)
        if self.over and self.k.dead is None:
            assert self.dropped
            assert {report.missing for report in self.k.coherence.reports} == {self.dropped}
        return self.over

    def failing(self, fault, act):
        """Do something with a failure injected; return its result, None: it failed."""
        if fault is not None:
            self.k.fail(*fault)
        try:
            return act()
        except OutOfMemory:
            assert fault is not None
            return None
        finally:
            for kind in FAULT_KINDS:
                self.k.fail(kind, 0)

    # ---- areas

    @precondition(lambda self: not self.over and len(self.areas) < AREAS)
    @rule(
        name=st.sampled_from(FAMILY),
        pages=st.sampled_from([1, 1, 2, 3, 5, 1100]),
        less=st.sampled_from([0, 1, 4095]),
        fault=FAULT,
        cpu=st.integers(0, 1),
    )
    def allocate(self, name, pages, less, fault, cpu):
        if self.hoard is not None:  # the zones below are small
            pages = min(pages, 5)
        k, size = self.k, (pages + 1) * PAGE
        wanted = self.place(size)
        arguments = (pages * PAGE - less, -1) if name == "vmalloc_node" else (pages * PAGE - less,)
        with k.on_cpu(cpu % len(k.cpus)):
            addr = self.failing(fault, lambda: getattr(k, name)(*arguments))
        if addr is None:
            return
        assert addr == wanted
        real = k.find_vm_area(addr)
        area = self.keep(Area(addr, size, "vfree", self.new(real.pages.tolist())))
        area.user = name.endswith("user")
        if area.user:
            for frame in area.frames:
                self.known(frame)[:] = 0
        zone = next(zone for zone in reversed(k.pages.zones[0]) if zone.size)
        if "32" not in name and min(area.frames) < zone.runs[0][0]:  # from a zone below: the top one is used up
            assert zone.free == 0
        self.enter(addr, area.frames, name == "vmalloc_exec")
        if (array := pages * k.arch.pointer_bytes) > PAGE:
            at, size = self.place(-(-array // PAGE) * PAGE + PAGE), -(-array // PAGE) * PAGE + PAGE
            frames = self.new(k.find_vm_area(at).pages.tolist())
            area.array = self.keep(Area(at, size, None, frames))
            self.enter(at, frames)
            for frame in frames:
                self.known(frame)[:] = 0

    @precondition(lambda self: not self.over and self.mine and len(self.areas) < AREAS)
    @rule(picks=st.lists(st.integers(0, 99), min_size=1, max_size=3), null=st.integers(0, 9), fault=FAULT)
    def vmap(self, picks, null, fault):
        """Map frames of the caller; where caches alias each in one place."""
        k, frames = self.k, [self.mine[n % len(self.mine)] for n in picks]
        if self.cached:
            frames = [f for f in dict.fromkeys(frames) if f not in self.mapped()]
        if not frames:
            return
        given = [*frames[:-1], NO_FRAME] if not null else frames
        wanted = self.place((len(frames) + 1) * PAGE)
        fault = fault or (("alloc_page", 0) if not null else None)
        addr = self.failing(fault, lambda: k.vmap(np.array(given), len(frames), int(VM.MAP), k.page_kernel))
        assert (addr is None) or (addr == wanted and null)
        if addr is not None:
            self.keep(Area(addr, (len(frames) + 1) * PAGE, "vunmap", frames))
            self.enter(addr, frames)

    @precondition(lambda self: not self.over and len(self.areas) < AREAS)
    @rule(pages=st.integers(1, 3), offset=st.sampled_from([0, 8]), device=st.booleans(), fault=FAULT)
    def ioremap(self, pages, offset, device, fault):
        """Map a frame of the caller, or what no RAM answers at; with an offset in the page."""
        k = self.k
        free = [f for f in self.mine if not self.cached or f not in self.mapped()]
        if not device and not free:
            return
        frame = k.layout.banks[-1].end // PAGE + 16 if device else free[0]
        pages = pages if device else 1
        size = pages * PAGE
        wanted = self.place(size + PAGE, self.aligned(size))
        got = self.failing(fault, lambda: k.ioremap(frame * PAGE + offset, size - offset))
        if got is not None:
            assert got == wanted + offset
            frames = [DEVICE] * pages if device else [frame]
            self.keep(Area(wanted, size + PAGE, "iounmap", frames))
            self.enter(wanted, frames, self.device_code)

    @precondition(lambda self: not self.over and len(self.areas) < AREAS)
    @rule(pages=st.integers(1, 3), fault=FAULT)
    def alloc_vm_area(self, pages, fault):
        size = pages * PAGE
        wanted = self.place(size + PAGE, self.aligned(size))
        area = self.failing(fault, lambda: self.k.alloc_vm_area(size))
        if area is not None:
            assert (area.addr, area.size) == (wanted, size + PAGE)
            self.keep(Area(wanted, size + PAGE, "free_vm_area"))

    @precondition(lambda self: not self.over and self.mine and self.of_kind("free_vm_area"))
    @rule(pick=st.integers(0, 99), frame=st.integers(0, 99), fault=FAULT)
    def map_vm_area(self, pick, frame, fault):
        """Map one frame into each page of an area that was reserved."""
        k, empty = self.k, self.of_kind("free_vm_area")
        free = [f for f in self.mine if not self.cached or f not in self.mapped()]
        empty = [area for area in empty if not area.frames]
        if not empty or not free:
            return
        area = empty[pick % len(empty)]
        count = area.size // PAGE - 1
        frames = free[:count] if self.cached else [free[frame % len(free)]] * count
        if len(frames) < count:
            return
        done = self.failing(fault, lambda: k.map_vm_area(k.find_vm_area(area.addr), k.page_kernel, frames))
        if done is not None:
            assert done == count
            area.frames = frames
            self.enter(area.addr, frames)

    @precondition(lambda self: not self.over and any(a.frames for a in self.of_kind("free_vm_area", "vunmap")))
    @rule(pick=st.integers(0, 99), page=st.integers(0, 4), count=st.integers(1, 3))
    def unmap_kernel_range(self, pick, page, count):
        """Unmap a part of an area that is mapped by hand, and perhaps of its guard page."""
        areas = [area for area in self.of_kind("free_vm_area", "vunmap") if area.frames]
        if areas:
            area = areas[pick % len(areas)]
            first = area.addr + page * PAGE % area.size
            size = min(count * PAGE, area.addr + area.size - first)
            self.k.unmap_kernel_range(first, size)
            self.forget(first, size)
            self.gone.append(first)
            self.touch(first)

    def of_kind(self, *kinds):
        return [area for addr, area in sorted(self.areas.items()) if area.free in kinds]

    @precondition(lambda self: not self.over and self.areas)
    @rule(pick=st.integers(0, 99), cpu=st.integers(0, 1))
    def release(self, pick, cpu):
        areas = self.of_kind("vfree", "vunmap", "iounmap", "free_vm_area")
        area = areas[pick % len(areas)]
        self.touch(area.addr)
        with self.k.on_cpu(cpu % len(self.k.cpus)):
            self.give_back(area)
        self.touch(area.addr)

    def touch(self, addr):
        """Load a byte on every CPU."""
        for cpu in self.k.cpus:
            if not self.over:
                with self.k.on_cpu(cpu):
                    self.do(cpu, "load", addr, 1, [addr // PAGE], 0)

    def give_back(self, area):
        k = self.k
        k.free_vm_area(k.find_vm_area(area.addr)) if area.free == "free_vm_area" else getattr(k, area.free)(
            area.addr
        )
        for one in (area, area.array):
            if one is not None:
                del self.areas[one.addr]
                self.forget(one.addr, one.size)
                self.gone.append(one.addr)

    @precondition(lambda self: not self.over and any(area.user for area in self.areas.values()))
    @rule(pick=st.integers(0, 99), skip=st.integers(0, 2), pages=st.integers(1, 3), nth=st.integers(0, 3))
    def remap_vmalloc_range(self, pick, skip, pages, nth):
        areas = [area for area in self.of_kind("vfree") if area.user and len(area.frames) >= skip + pages]
        if not areas:
            return
        area, k = areas[pick % len(areas)], self.k
        vma = VmAreaStruct(0x10000, 0x10000 + pages * PAGE)
        wanted = area.frames[skip : skip + pages]
        k.fail("insert", nth)
        if 0 < nth <= pages:
            with pytest.raises(KernelError) as caught:
                k.remap_vmalloc_range(vma, area.addr, skip)
            assert (caught.value.errno, vma.inserted[: nth - 1].tolist()) == (ENOMEM, wanted[: nth - 1])
        else:
            k.remap_vmalloc_range(vma, area.addr, skip)
            k.fail("insert", 0)
            assert vma.inserted.tolist() == wanted
            with pytest.raises(KernelError) as caught:
                k.remap_vmalloc_range(vma, area.addr, skip)
            assert caught.value.errno == EBUSY

    # ---- frames

    @precondition(lambda self: not self.over and len(self.mine) < 8)
    @rule(count=st.integers(1, 3), zero=st.booleans(), high=st.booleans(), nth=st.integers(0, 3))
    def alloc_pages(self, count, zero, high, nth):
        k = self.k
        k.fail("alloc_page", nth)
        gfp = GFP_KERNEL | (int(GFP.ZERO) if zero else 0) | (int(GFP.HIGHMEM) if high else 0)
        frames = self.new(k.alloc_pages(count, gfp, -1).tolist())
        k.fail("alloc_page", 0)
        assert len(frames) == (nth - 1 if 0 < nth <= count else count)
        for frame in frames if zero else ():
            self.known(frame)[:] = 0
        self.mine += frames

    @precondition(lambda self: not self.over and self.mine)
    @rule(pick=st.integers(0, 99))
    def free_pages(self, pick):
        frame = self.mine[pick % len(self.mine)]
        held = [f for area in self.areas.values() if area.free != "vfree" for f in area.frames]
        if frame not in self.mapped() and frame not in held:
            self.k.free_pages(np.array([frame]))
            self.mine.remove(frame)

    @precondition(lambda self: not self.over)
    @rule()
    def hoard_or_release(self):
        """Take what the top zone has left, so that others fall back to the zone below; or give it back."""
        k, zones = self.k, [zone for zone in self.k.pages.zones[0] if zone.size]
        if self.hoard is not None:
            k.free_pages(self.hoard)
            self.hoard = None
        elif len(zones) > 1:
            frames = k.alloc_pages(zones[-1].free, GFP_KERNEL | int(GFP.HIGHMEM), -1)
            self.new(frames.tolist())
            self.hoard = frames

    # ---- processes

    @precondition(lambda self: not self.over and len(self.mms) <= PROCESSES)
    @rule()
    def mm_alloc(self):
        before = self.k.pages.pages_in_use
        self.mms.append(self.k.mm_alloc())
        self.mm_pages += self.k.pages.pages_in_use - before

    @precondition(lambda self: not self.over)
    @rule(cpu=st.integers(0, 1), pick=st.integers(0, PROCESSES))
    def switch_mm(self, cpu, pick):
        cpu %= len(self.k.cpus)
        mm = self.mms[pick % len(self.mms)]
        self.k.switch_mm(cpu, mm)
        assert self.k.current_mm(cpu) is mm

    @precondition(lambda self: not self.over)
    @rule()
    def vmalloc_sync_all(self):
        self.k.vmalloc_sync_all()

    # ---- bytes

    def target(self, pick, inside, size):
        """Choose bytes: of a page that is mapped, or was; return the address and the bytes' pages."""
        numbers = {addr // PAGE for addr in self.gone[-2:]}
        for area in self.areas.values():
            first, guard = area.addr // PAGE, (area.addr + area.size) // PAGE - 1
            numbers |= {first, first + 1, guard - 1, guard}
        address = sorted(numbers)[pick % len(numbers)] * PAGE + inside
        return address, range(address // PAGE, (address + size - 1) // PAGE + 1)

    def wanted(self, address, size):
        """Return what is known of bytes that are mapped, -1: not known."""
        parts = []
        for page in range(address // PAGE, (address + size - 1) // PAGE + 1):
            first, end = max(address - page * PAGE, 0), min(address + size - page * PAGE, PAGE)
            parts.append(self.known(self.pages[page][0])[first:end])
        return np.concatenate(parts)

    def learn(self, address, data):
        for n, byte in enumerate(data):
            self.known(self.pages[(address + n) // PAGE][0])[(address + n) % PAGE] = byte

    def compare(self, address, data):
        """Compare bytes that were read with what is known of them, or with what the checker says."""
        wanted, found = self.wanted(address, len(data)), np.frombuffer(data, np.uint8)
        wrong = (wanted >= 0) & (wanted != found)
        if not self.told():
            assert not wrong.any(), f"{address:#x}: {data!r}, expected {wanted.tolist()}"
            self.learn(address, data)

    @precondition(lambda self: not self.over and (self.areas or self.gone))
    @rule(accesses=st.lists(ACCESS, min_size=1, max_size=6), interrupt=st.booleans())
    def access(self, accesses, interrupt):
        """Load, store and fetch, where it faults too; an interrupt makes no difference."""
        for cpu, pick, inside, size, access, byte in accesses:
            if not self.over:
                address, numbers = self.target(pick, inside, size)
                self.k.in_interrupt = interrupt
                with self.k.on_cpu(cpu % len(self.k.cpus)) as one:
                    try:
                        self.do(one, access, address, size, numbers, byte)
                    finally:
                        self.k.in_interrupt = False

    def do(self, cpu, access, address, size, numbers, byte):
        bad = [n for n in numbers if n not in self.pages or (access == "fetch" and not self.pages[n][1])]
        devices = [n for n in numbers if n not in bad and self.pages[n][0] == DEVICE]
        wanted = max(address, bad[0] * PAGE) if bad else None
        if devices and (not bad or (access == "store" and devices[0] < bad[0])):
            wanted = "bus error"
        data, found, faulted = bytes(byte + n & 0xFF for n in range(size)), None, None
        try:
            found = cpu.store(address, data) if access == "store" else getattr(cpu, access)(address, size)
        except PageFault as fault:
            faulted = fault.address
        except BusError:
            faulted = "bus error"
        if self.told():
            return
        assert faulted == wanted, f"{access} of {size} at {address:#x}"
        if wanted == "bus error":
            return
        if access == "store":
            data = data if faulted is None else data[: faulted - address]
            self.learn(address, data)
            if data:
                self.compare(address, cpu.load(address, len(data)))
        elif found is not None and (access == "load" or not self.cached):  # a fetch looks into no data cache
            self.compare(address, found)

    @precondition(lambda self: not self.over and self.mine and self.k.arch.linear_map is not None)
    @rule(
        cpu=st.integers(0, 1),
        pick=st.integers(0, 99),
        store=st.booleans(),
        data=st.binary(min_size=1, max_size=40),
    )
    def home(self, cpu, pick, store, data):
        """Use a frame by its address in the linear map; where caches alias, while it is mapped nowhere else."""
        frame = self.mine[pick % len(self.mine)]
        if frame * PAGE >= self.k.layout.lowmem_end or (self.cached and frame in self.mapped()):
            return
        address = linear(self.k, frame)
        self.pages[address // PAGE] = frame, True
        with self.k.on_cpu(cpu % len(self.k.cpus)) as one:
            if store:
                one.load(address, len(data))
                one.store(address, data)
                self.learn(address, data)
                self.told()
            else:
                self.compare(address, one.load(address, len(data)))
        del self.pages[address // PAGE]

    @precondition(lambda self: not self.over and self.of_kind("vfree", "vunmap"))
    @rule(pick=st.integers(0, 99), skip=st.integers(0, 9000), size=st.integers(1, 9000), write=st.booleans())
    def vread_or_vwrite(self, pick, skip, size, write):
        """Go over an area and into its guard page, which is not there and reads as zeros."""
        areas = [a for a in self.of_kind("vfree", "vunmap") if self.whole(a)]
        if not areas:
            return
        area, k = areas[pick % len(areas)], self.k
        start = area.addr + skip % area.size
        size = min(size, area.addr + area.size - start)
        inside = max(0, min(size, area.addr + area.size - PAGE - start))
        last = max(a.addr for a in self.areas.values()) == area.addr
        over = inside if last else size  # behind the last area nothing is gone over
        if write:
            data = bytes(n * 7 + size & 0xFF for n in range(size))
            assert k.vwrite(start, data) == over
            if not self.told():
                self.learn(start, data[:inside])
            return
        found = k.vread(start, size)
        assert found[inside:] == bytes(over - inside)
        if inside:
            self.compare(start, found[:inside])

    def whole(self, area):
        return all(area.addr // PAGE + n in self.pages for n in range(area.size // PAGE - 1))

    @precondition(lambda self: not self.over and self.areas)
    @rule(free=st.booleans(), ask=st.integers(0, 9))
    def die_in_interrupt(self, free, ask):
        """vmalloc() and vfree() in interrupt end the kernel; now and then."""
        if ask:
            return
        k, names = self.k, (["vfree", 0] if free else ["vmalloc", 1])
        with k.interrupt(), pytest.raises(KernelBug, match="in_interrupt"):
            getattr(k, names[0])(names[1])
        with pytest.raises(KernelDead):
            k.vmalloc(1)
        k.check()
        self.over = True

    # ---- after every step, and at the end

    @invariant()
    def agrees(self):
        if not hasattr(self, "k") or self.over or self.told():
            return
        k = self.k
        self.steps += 1
        if self.steps % 3 == 0:
            k.check()
        assert [(a.addr, a.size) for a in k.vmlist] == sorted((a.addr, a.size) for a in self.areas.values())
        arrays = sum(len(a.frames) for a in self.areas.values() if a.free in ("vfree", None))
        hoard = 0 if self.hoard is None else len(self.hoard)
        held = arrays + len(self.mine) + hoard + self.mm_pages
        assert k.pages.pages_in_use - self.tables() == self.begun + held

    def teardown(self):
        if not hasattr(self, "k") or self.k.dead is not None:
            return
        for area in list(self.of_kind("vfree", "vunmap", "iounmap", "free_vm_area")):
            self.give_back(area)
        self.k.free_pages(np.array(self.mine + ([] if self.hoard is None else self.hoard.tolist()), np.int64))
        assert (len(list(self.k.vmlist)), self.k.slab.live_objects) == (0, 0)
        if not self.told():  # a line that is lost may go over a table
            assert self.k.pages.pages_in_use - self.tables() == self.begun + self.mm_pages
            self.k.check()


@pytest.mark.parametrize("record", RECORDS)
def test_any_order_of_calls_does_what_a_model_of_dicts_does(record):
    profile = settings()
    thorough = profile.max_examples > 100
    run_state_machine_as_test(
        type(record, (Machines,), {"record": record, "ram": RECORDS[record]}),
        settings=settings(
            max_examples=max(1, profile.max_examples // 12),
            stateful_step_count=50,
            deadline=None,
            derandomize=not thorough,  # the default run is the same every time
            phases=profile.phases if thorough else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
