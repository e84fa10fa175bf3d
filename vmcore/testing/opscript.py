"""Run op scripts, which have one op a line, on a machine wired like the test harness of the compiled C file.

All zones share one LIFO stack of page ids. Page tables are outside of it. New pages are filled with ``0xa5 ^ id``.
kmalloc ids are never reused. Results and events have the form of golden bundles, with one event for each call.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np
from attrs import Factory, define, evolve

from vmcore.architecture import Architecture, HardwareView, Layout
from vmcore.errors import GoldenError, KernelBug, KernelError, KernelFailure, KernelOops, OutOfMemory
from vmcore.events import Flush
from vmcore.flags import GFP, NO_FRAME, ZERO_SIZE_PTR
from vmcore.hookspecs import SyncSymbol, hookimpl
from vmcore.linking import weak
from vmcore.linking.link import assemble
from vmcore.linking.registry import Registry
from vmcore.memory.physical import PhysicalMemory
from vmcore.placement.arealist import VmStruct
from vmcore.port.structs import VmAreaStruct
from vmcore.port.vmalloc import Vmalloc
from vmcore.units import Bank
from vmcore.wording import counted

_TABLES = Bank(0x4000_0000, 0x4800_0000)  # memory for page tables, beyond every page of a script
MAX_PAGES = 1 << 15  #: most pages of a script's machine, which fills every page that it hands out
_BYTES_MOST = 4 << 20  # most bytes that an op may read or write
_MAX_ENTRIES = 1 << 20  # pages that one op may map or make tables for: 4 GiB
_NOT_PRESENT = 15  # the protection number of an entry that is neither none nor present
_MEM_MAP = {32: (0x2000_0000, 32), 64: (0x1000_0000_0000, 64)}  # the harness' struct pages, by word bits
_UINT, _INT_SIGN = 0xFFFF_FFFF, 1 << 31
_FIRST_HANDLE = 2 * ZERO_SIZE_PTR

Event = tuple[Any, ...]


class PageStack:
    """A `PageSource`: ids in order of first allocation, last freed first reused."""

    def __init__(self, memory: PhysicalMemory, limit: int) -> None:
        self._memory, self._limit = memory, limit
        self.stack: list[int] = []
        self.fresh = 0
        self.live: set[int] = set()

    def alloc(self, count: int, gfp: int, node: int) -> np.ndarray:
        """Return up to ``count`` ids, zeroed or filled."""
        ids = [self.stack.pop() for _ in range(min(count, len(self.stack)))]
        more = min(count - len(ids), self._limit - self.fresh)
        ids += range(self.fresh, self.fresh + more)
        self.fresh += more
        self.live.update(ids)
        frames = np.array(ids, np.int64)
        zero = gfp & GFP.ZERO
        self._memory.pages[frames] = 0 if zero else (0xA5 ^ frames & 0xFF).astype(np.uint8)[:, None]
        return frames

    def free(self, frames: np.ndarray) -> None:
        """Take ids back, in this order."""
        ids = frames.tolist()
        self.live.difference_update(ids)
        self.stack += ids

    def check_node(self, node: int) -> None:
        """Let any node pass: all pages are on one stack."""

    def allocated(self, frames: np.ndarray) -> np.ndarray:
        """Tell which ids are handed out."""
        return np.array([n in self.live for n in frames.tolist()], np.bool_)


class _TableStack:
    """A `TableSource` with memory of its own, which is enough for every script."""

    def __init__(self, start: int, page: int) -> None:
        self._next, self._page = start, page

    def alloc_table(self) -> int | None:
        if self._next >= _TABLES.end:
            raise GoldenError(f"found more page tables than {_TABLES.size:#x} bytes hold, expected smaller areas")
        self._next += self._page
        return self._next - self._page

    def free_table(self, table: int) -> None:
        raise AssertionError("scripts run on one CPU: nobody else installs a table")


class KmallocCount:
    """A `KmallocSource` whose ids are 0, 1, 2 ... and never reused. A handle is the id plus 32."""

    def __init__(self) -> None:
        self.next, self.live = 0, 0

    def alloc(self, size: int, gfp: int, node: int) -> int:
        """Return the next handle."""
        if not size:
            return ZERO_SIZE_PTR
        self.next, self.live = self.next + 1, self.live + 1
        return self.next - 1 + _FIRST_HANDLE

    def free(self, handle: int) -> None:
        """Count a freed object."""
        self.live -= 1


class Protections:
    """Protection numbers 0 to 15 as bit patterns of the last level. Four bits below the frame hold the number."""

    def __init__(self, arch: Architecture) -> None:
        level = arch.levels[-1]
        taken = level.present_mask | level.frame_mask
        free = [bit for bit in range(8 * level.word_bytes) if not taken >> bit & 1][:4]
        present = level.present_mask & -level.present_mask
        self._bits = [sum((n >> k & 1) << bit for k, bit in enumerate(free)) for n in range(16)]
        self._bits = [b | (0 if n == _NOT_PRESENT else present) for n, b in enumerate(self._bits)]
        self._mask = present | sum(1 << bit for bit in free)
        self._numbers = {b: n for n, b in enumerate(self._bits)}

    def bits(self, number: int) -> int:
        """Return the pattern of a number."""
        return self._bits[number & 15]

    def number(self, word: int) -> int:
        """Return the number in an entry."""
        return self._numbers[word & self._mask]


def hexed(value: int) -> str:
    """Write a number as bundles do."""
    return f"{value:#x}"


def _signed(value: int) -> int:
    value &= _UINT
    return value - 2 * _INT_SIGN if value & _INT_SIGN else value


class _Recorder:
    """A listener that records every event of a machine in the form of bundles, one for each call."""

    def __init__(self, arch: Architecture, protections: Protections) -> None:
        self.events: list[Event] = []
        self._level, self._page_shift, self._protections = arch.levels[-1], arch.page_shift, protections

    @hookimpl(wrapper=True)
    def vmcore_vmalloc_sync_all(self, arch: Architecture) -> Generator[None, SyncSymbol, SyncSymbol]:
        yield  # there are no processes to sync, and a script's windows need not be the architecture's
        return weak.vmalloc_sync_all

    @hookimpl
    def vmcore_kmalloc(self, size: int, node: int, gfp: int, handle: int | None) -> None:
        self.events.append(("kmalloc", size, node, hexed(gfp), kmalloc_id(handle)))

    @hookimpl
    def vmcore_kfree(self, handle: int | None) -> None:
        self.events.append(("kfree", kmalloc_id(handle)))

    @hookimpl
    def vmcore_pages_allocated(self, node: int, gfp: int, zone: str, frames: np.ndarray, failed: bool) -> None:
        head = ("alloc_page", node, hexed(gfp), zone, int(bool(gfp & GFP.ZERO)))
        self.events += [(*head, n) for n in frames.tolist()]
        if failed:
            self.events.append((*head, None))

    @hookimpl
    def vmcore_pages_freed(self, frames: np.ndarray) -> None:
        self.events += [("free_page", n) for n in frames.tolist()]

    @hookimpl
    def vmcore_table_allocated(self, level: str, address: int, table: int | None) -> None:
        self.events.append(("pgtable_alloc", level, hexed(address), int(table is not None)))

    @hookimpl
    def vmcore_range_mapped(self, address: int, entries: np.ndarray, frames: np.ndarray) -> None:
        number, page = self._protections.number, 1 << self._page_shift
        self.events += [
            ("set_pte", address + n * page, number(word), frame)
            for n, (word, frame) in enumerate(zip(entries.tolist(), frames.tolist(), strict=True))
        ]

    @hookimpl
    def vmcore_range_cleared(self, address: int, entries: np.ndarray) -> None:
        frames = (self._level.decode_array(entries) >> np.uint64(self._page_shift)).tolist()
        self.events += [("clear_pte", address + (n << self._page_shift), f) for n, f in enumerate(frames)]

    @hookimpl
    def vmcore_flush(self, flush: Flush) -> None:
        self.events.append((flush.symbol, hexed(flush.start), hexed(flush.end)))

    @hookimpl
    def vmcore_sync(self) -> None:
        self.events.append(("vmalloc_sync_all",))

    @hookimpl
    def vmcore_page_inserted(self, address: int, frames: np.ndarray, errno: int) -> None:
        self.events += [
            ("vm_insert_page", hexed(address + (n << self._page_shift)), page_id(f), errno)
            for n, f in enumerate(frames.tolist())
        ]

    @hookimpl
    def vmcore_printk(self, line: str) -> None:
        self.events.append(("printk", line))

    @hookimpl
    def vmcore_warn(self, condition: str, function: str) -> None:
        self.events.append(("WARN_ON", condition, function))

    @hookimpl
    def vmcore_bug(self, condition: str, function: str) -> None:
        self.events.append(("BUG", condition, function))

    @hookimpl
    def vmcore_oops(self, address: int, access: str) -> None:
        self.events.append(("oops", hexed(address), access))


def kmalloc_id(handle: int | None) -> int | str | None:
    """Return a handle as bundles print it."""
    if handle is None:
        return None
    return "zero" if handle == ZERO_SIZE_PTR else handle - _FIRST_HANDLE


def page_id(frame: int | None) -> int | None:
    """Return a frame as bundles print it."""
    return None if frame is None or frame == NO_FRAME else frame


def pick(registry: Registry, header: Mapping[str, Any]) -> Architecture:
    """Choose the first installed record, by name, that has a header's geometry. Apply the header to it.

    Raises:
        GoldenError: No record has that geometry.
    """
    wanted = [tuple(level) for level in header["levels"]]
    for arch in registry.architectures.values():
        if (
            arch.word_bits == header["bits"]
            and arch.page_shift == header["page_shift"]
            and [(lv.name, lv.shift, lv.entries) for lv in arch.levels] == wanted
            and arch.ioremap_max_order == header["ioremap_max_order"]
            and (arch.page_kernel_exec is None) == (header["page_kernel_exec"] is None)
            and ("HIGHMEM" in arch.zone_names) == ("HIGHMEM" in header["zones"])
        ):
            return _overlay(arch, header)
    raise GoldenError(
        f"no installed architecture has {header['bits']} bits, levels {wanted}, IOREMAP_MAX_ORDER "
        f"{header['ioremap_max_order']} and zones {header['zones']}; install one that has"
    )


def _overlay(arch: Architecture, header: Mapping[str, Any]) -> Architecture:
    protections = Protections(arch)
    executable = header["page_kernel_exec"]
    return evolve(
        arch,
        levels=[evolve(level, prebuilt=False) for level in arch.levels],
        # a script's protections are numbers without rights: its CPU reads what Linux wrote, and checks none
        hardware=HardwareView(mirror=arch.hardware.mirror),
        linear_map=None,
        page_kernel=protections.bits(header["page_kernel"]),
        page_kernel_exec=None if executable is None else protections.bits(executable),
        supported_pte_mask=(1 << 64) - 1,
    )


@define
class _Result:
    """The values that later ops may refer to by ``$N``."""

    addr: int = 0
    area: VmStruct | None = None
    pages: np.ndarray = Factory(lambda: np.empty(0, np.int64))


def _dump(run: ScriptRun, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
    level, kernel = run.arch.levels[-1], run.kernel
    addresses, words = kernel.init_mm.entries()
    frames = (level.decode_array(words) >> np.uint64(run.arch.page_shift)).tolist()
    numbers = [run.protections.number(word) for word in words.tolist()]
    return {
        "vmlist": [[hexed(v.addr), hexed(v.size), hexed(v.flags), v.nr_pages, hexed(v.phys_addr)]
                   for v in kernel.vmlist],
        "ptes": list(zip(addresses.tolist(), numbers, frames, strict=True)),
        "tables": {"pud": 0, "pmd": 0, "pte": 0} | kernel.init_mm.tables,
        "free_stack": list(run.pages.stack),
        "next_page": run.pages.fresh,
        "next_kmalloc": run.slab.next,
    }  # fmt: skip


class ScriptRun:
    """One script on one machine."""

    def __init__(self, registry: Registry, header: Mapping[str, Any]) -> None:
        """Wire the machine a header asks for.

        Raises:
            GoldenError: No installed record fits the header.
        """
        arch = pick(registry, header)
        self.arch, self.protections = arch, Protections(arch)
        page, physpages = arch.page_size, header["physpages"]
        root = max(arch.root_bytes, page)
        layout = Layout(
            page_offset=0,
            phys_offset=0,
            lowmem_end=0,
            vmalloc_start=int(header["vmalloc_start"], 16),
            vmalloc_end=int(header["vmalloc_end"], 16),
            swapper_pg_dir=_TABLES.start,
            kernel_end=0,
            first_kernel_pgd=0,
            banks=(Bank(0, physpages * page), _TABLES),
        )
        memory = PhysicalMemory(layout.banks, arch.page_shift)
        self.pages, self.slab = PageStack(memory, physpages), KmallocCount()
        self.recorder = _Recorder(arch, self.protections)
        linked, events, _ = assemble(registry, arch, [self.recorder])
        tables = _TableStack(_TABLES.start + root, page)
        self.kernel = Vmalloc(
            arch, layout, linked, events, memory, self.pages, tables, self.slab, header["num_physpages"]
        )
        self.kernel.mem_map = _MEM_MAP[arch.word_bits]
        self.results: list[_Result] = []

    # ---- one op

    def run(self, text: str) -> dict[str, Any]:
        """Run one op and return its line in the form of bundles, with its events expanded.

        Raises:
            GoldenError: the op is unknown or its arguments do not fit it.
        """
        name, *words = text.split()
        result = _Result()
        args: list[int] = []
        events: list[Event] = []
        self.recorder.events = events
        handler = self._HANDLERS.get(name)
        if handler is None:
            raise GoldenError(f"unknown op {name!r} in {text!r}")
        line: dict[str, Any] = {"i": len(self.results), "op": text}
        for cpu in self.kernel.cpus:
            cpu.tlb.drop_all()  # the harness has no TLB: it sees an entry that was overwritten without a flush
        try:
            line |= handler(self, name, self._arguments(name, words, args), result)
        except KernelBug:
            line["end"] = "BUG"
        except KernelOops:
            line["end"] = "OOPS"
        except GoldenError as error:
            raise GoldenError(f"op {text!r}: {error}") from None
        except (
            LookupError, AttributeError, TypeError, ValueError, OverflowError, MemoryError, KernelFailure
        ) as error:  # fmt: skip
            raise GoldenError(f"op {text!r}: cannot be run: {type(error).__name__}: {error}") from error
        self.results.append(result)
        line["args"] = [hexed(arg) for arg in args]
        line["ev"] = events
        tables = sum(self.kernel.init_mm.tables.values())
        line["live"] = [len(self.kernel.vmlist), len(self.pages.live), self.slab.live, tables]
        return line

    def _arguments(self, name: str, words: list[str], args: list[int]) -> list[Any]:
        """Resolve the words of an op. Handles and names stay as they are."""
        out: list[Any] = []
        for n, word in enumerate(words):
            if word == "keep" or (name == "fail" and n == 0):
                out.append(word)
                continue
            value = self._number(word)
            args.append(value)
            is_handle = n == 0 and name in _TAKES_RESULT
            out.append(self.results[int(word[1:].split("+")[0])] if is_handle else value)
        return out

    def _number(self, text: str) -> int:
        """Read a number: decimal, hex, $N or a name, then any number of +n or -n, for example $3+4096."""
        parts = text.replace("-", "+-").split("+")
        named = {"ULONG_MAX": self.arch.word_mask, "VMALLOC_START": self.kernel.layout.vmalloc_start}
        named["VMALLOC_END"] = self.kernel.layout.vmalloc_end
        total = 0
        for part in filter(None, parts):
            sign, digits = (-1, part[1:]) if part.startswith("-") else (1, part)
            if digits.startswith("$"):
                total += self.results[int(digits[1:])].addr
            else:
                total += sign * (named[digits] if digits in named else int(digits, 0))
        return total & self.arch.word_mask

    # ---- the ops

    def _vmalloc(self, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
        k, prot = self.kernel, self.protections.bits
        call: Callable[[], int] = {
            "vmalloc": lambda: k.vmalloc(a[0]),
            "vmalloc_user": lambda: k.vmalloc_user(a[0]),
            "vmalloc_exec": lambda: k.vmalloc_exec(a[0]),
            "vmalloc_32": lambda: k.vmalloc_32(a[0]),
            "vmalloc_32_user": lambda: k.vmalloc_32_user(a[0]),
            "vmalloc_node": lambda: k.vmalloc_node(a[0], _signed(a[1])),
            "__vmalloc": lambda: k.raw_vmalloc(a[0], a[1] & _UINT, prot(a[2])),
            "__vmalloc_area": lambda: k.raw_vmalloc_area(a[0].area, a[1] & _UINT, prot(a[2])),
            "vmap": lambda: k.vmap(result.pages, a[0], a[1], prot(a[2])),
            "vmap_again": lambda: k.vmap(a[0].pages, a[1], a[2], prot(a[3])),
        }[name]
        try:
            result.addr = call()
        except (KernelBug, KernelOops):
            raise
        except KernelFailure:
            return {"ret": None}
        return {"ret": hexed(result.addr) if result.addr else None}  # an area at address 0 is NULL to C

    def _vmap(self, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
        wrapped = a[0] & (_UINT >> self.arch.page_shift)
        self._make_pages(result, max(wrapped, a[3]), a[3], _signed(a[4]) if len(a) > 4 else -1)
        return self._vmalloc(name, a, result)

    def _make_pages(self, result: _Result, entries: int, count: int, null: int) -> None:
        """Give an op a page array: fresh pages, NULL at ``null`` and from ``count`` on."""
        _check_most(max(entries, count), _MAX_ENTRIES, "a page array of", "entry", "entries")
        fresh = [n for n in range(count) if n != null]
        got = self.pages.alloc(len(fresh), 0, -1).tolist()
        got += [NO_FRAME] * (len(fresh) - len(got))
        self.recorder.events += [("h_alloc_page", page_id(n)) for n in got]
        result.pages = np.full(max(entries, count), NO_FRAME, np.int64)
        result.pages[fresh] = got

    def _put_pages(self, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
        owned = a[0].pages[a[0].pages != NO_FRAME]
        self.recorder.events += [("h_free_page", n) for n in owned.tolist()]
        self.pages.free(owned)
        a[0].pages = a[0].pages[:0]
        return {}

    def _free(self, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
        (self.kernel.vfree if name == "vfree" else self.kernel.vunmap)(a[0])
        return {}

    def _get_area(self, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
        k = self.kernel
        window = k.layout.vmalloc_end - k.layout.vmalloc_start
        if name == "alloc_vm_area" and a[0] < window:  # else there is no room, and no table is made
            _check_most(a[0] >> self.arch.page_shift, _MAX_ENTRIES, "tables for", "page")
        call: Callable[[], VmStruct] = {
            "get_vm_area": lambda: k.get_vm_area(a[0], a[1]),
            "__get_vm_area": lambda: k.raw_get_vm_area(a[0], a[1], a[2], a[3]),
            "get_vm_area_node": lambda: k.get_vm_area_node(a[0], a[1], _signed(a[2]), a[3] & _UINT),
            "alloc_vm_area": lambda: k.alloc_vm_area(a[0]),
        }[name]
        try:
            area = call()
        except (KernelBug, KernelOops):
            raise
        except KernelFailure:
            return {"ret": None, "area": None}
        result.addr, result.area = area.addr, area
        return {"ret": hexed(area.addr), "area": _area(area)}

    def _free_vm_area(self, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
        self.kernel.free_vm_area(a[0].area)
        return {}

    def _remove_vm_area(self, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
        area = self.kernel.remove_vm_area(a[0])
        if area is None:
            return {"ret": None, "area": None}
        if "keep" not in a[1:]:
            self.kernel.allocators.kfree(area.handle)
        return {"ret": hexed(area.addr) if area.addr else None, "area": _area(area)}

    def _map_vm_area(self, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
        area: VmStruct = a[0].area
        entries = (area.size >> self.arch.page_shift) + 1
        self._make_pages(result, entries, a[2], _signed(a[3]) if len(a) > 3 else -1)
        result.addr = area.addr
        try:
            return {"ret": 0, "advanced": self.kernel.map_vm_area(area, self.protections.bits(a[1]), result.pages)}
        except OutOfMemory as error:
            return {"ret": -12, "advanced": error.done}

    def _unmap_kernel_range(self, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
        self.kernel.unmap_kernel_range(a[0], a[1])
        return {}

    def _behind(self, addr: int) -> int:
        """Return the bytes from an address to the end of the last area. No access goes beyond that end."""
        return max(max((area.addr + area.size for area in self.kernel.vmlist), default=0) - addr, 0)

    def _vread(self, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
        _check_most(min(a[1], self._behind(a[0])), _BYTES_MOST, "a read of", "byte")
        data = self.kernel.vread(a[0], a[1])
        return {"ret": len(data), "crc32": f"{zlib.crc32(data):08x}", "head": data[:32].hex()}

    def _vwrite(self, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
        count = min(a[1], self._behind(a[0]))
        _check_most(count, _BYTES_MOST, "a write of", "byte")
        n = np.arange(count, dtype=np.uint64)
        source = (np.uint64(a[2] * 31 & 0xFF) + n * np.uint64(7) + (n >> np.uint64(8))).astype(np.uint8)
        return {"ret": self.kernel.vwrite(a[0], source.tobytes())}

    def _remap(self, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
        vma = VmAreaStruct(a[0], a[1])
        try:
            self.kernel.remap_vmalloc_range(vma, a[2], a[3])
        except KernelError as error:
            return {"ret": -(error.errno or 0), "vm_flags": hexed(vma.vm_flags)}
        return {"ret": 0, "vm_flags": hexed(vma.vm_flags)}

    def _to_page(self, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
        return {"ret": page_id(self.kernel.vmalloc_to_page(a[0]))}

    def _turn(self, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
        setattr(self.kernel, name, a[0] if name == "num_physpages" else bool(a[0]))
        return {}

    def _fail(self, name: str, a: list[Any], result: _Result) -> dict[str, Any]:
        self.kernel.faults.inject(a[0], a[1])
        return {}

    _HANDLERS: Mapping[str, Callable[[ScriptRun, str, list[Any], _Result], dict[str, Any]]] = {
        **dict.fromkeys(("vmalloc", "vmalloc_user", "vmalloc_exec", "vmalloc_32", "vmalloc_32_user",
                         "vmalloc_node", "__vmalloc", "__vmalloc_area", "vmap_again"), _vmalloc),
        **dict.fromkeys(("get_vm_area", "__get_vm_area", "get_vm_area_node", "alloc_vm_area"), _get_area),
        **dict.fromkeys(("vfree", "vunmap"), _free),
        **dict.fromkeys(("in_interrupt", "printk_ratelimit", "num_physpages"), _turn),
        "vmap": _vmap, "put_pages": _put_pages, "free_vm_area": _free_vm_area,
        "remove_vm_area": _remove_vm_area, "map_vm_area": _map_vm_area,
        "unmap_kernel_range": _unmap_kernel_range, "vread": _vread, "vwrite": _vwrite,
        "remap_vmalloc_range": _remap, "vmalloc_to_page": _to_page, "fail": _fail, "dump": _dump,
    }  # fmt: skip


def _check_most(count: int, most: int, what: str, one: str, more: str = "") -> None:
    """Refuse an op that asks for too much.

    Raises:
        GoldenError: ``count`` is above ``most``.
    """
    if count > most:
        found = counted(count, one, more, form="#x")
        raise GoldenError(f"found {what} {found}, expected at most {most:#x}; is the op damaged?")


_TAKES_RESULT = ("__vmalloc_area", "vmap_again", "put_pages", "free_vm_area", "map_vm_area")


def _area(area: VmStruct) -> dict[str, Any]:
    return {
        "addr": hexed(area.addr),
        "size": hexed(area.size),
        "flags": hexed(area.flags),
        "nr_pages": area.nr_pages,
        "phys_addr": hexed(area.phys_addr),
    }
