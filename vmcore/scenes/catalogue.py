"""Short named scenes that show the harm of a missing flush, sync or handler, on any architecture.

A scene is played twice: with one link symbol replaced by nothing, and with the architecture's own. The steps that
come out differently are the difference. Where there are none, the scene says why nothing goes wrong there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from attrs import frozen

from vmcore.architecture import Architecture
from vmcore.errors import ConfigurationError, choices
from vmcore.hookspecs import hookimpl
from vmcore.kernel import Kernel
from vmcore.linking import registry as plugins
from vmcore.linking import weak
from vmcore.linking.registry import Registry
from vmcore.linking.selection import select
from vmcore.scenes.flush import guard_page_overrun, lost_dirty_line, missing_tlb_flush, use_after_vfree, vivt_alias
from vmcore.scenes.result import Difference, Performance, Play, SceneList, SceneStep
from vmcore.scenes.stage import Stage, modelled
from vmcore.scenes.sync import lazy_sync, sync_all

_TLB, _CACHE_MAP, _CACHE_UNMAP = "flush_tlb_kernel_range", "flush_cache_vmap", "flush_cache_vunmap"
_SYNC, _FAULT = "vmalloc_sync_all", "vmalloc_fault"
_WEAK = {_SYNC: weak.vmalloc_sync_all, _FAULT: weak.vmalloc_fault}


@frozen
class Scene:
    """A scene.

    Attributes:
        name: Name that users type.
        title: One line about it.
        story: Background that readers need.
        symbol: Link symbol that it is about.
        play: Plays it, step by step.
        harmless: Returns, for the kernel of the full play, why nothing goes wrong without the symbol.
    """

    name: str
    title: str
    story: str
    symbol: str
    play: Callable[[Stage], None]
    harmless: Callable[[Kernel], str]


# ---- why nothing goes wrong


def _is_weak(kernel: Kernel, symbol: str) -> bool:
    return getattr(kernel.linked, symbol) is _WEAK.get(symbol, weak.flush_nothing)


def _nothing_to_leave_out(kernel: Kernel, symbol: str) -> str:
    return f"no plugin defines {symbol} for this architecture: it does nothing in either play"


def _no_tlb_difference(kernel: Kernel) -> str:
    if _is_weak(kernel, _TLB):
        return _nothing_to_leave_out(kernel, _TLB)
    return f"{_TLB} is defined, and drops nothing that the scene needs"


def _no_cache_difference(kernel: Kernel) -> str:
    cache = kernel.arch.hardware.cache
    if not modelled(cache):
        return (
            "the data caches of this machine find a line by its physical address: a frame is in them once, "
            "whatever address it is used by, and needs no flush"
        )
    for symbol in (_CACHE_MAP, _CACHE_UNMAP):
        if _is_weak(kernel, symbol):
            return _nothing_to_leave_out(kernel, symbol)
    return "both addresses of the frame have the same cache colour, and so the same line"


def _no_fault_difference(kernel: Kernel) -> str:
    if not any(cpu.faults.taken for cpu in kernel.cpus):
        return _shared(kernel)
    return _nothing_to_leave_out(kernel, _FAULT)


def _shared(kernel: Kernel) -> str:
    level = kernel.arch.levels[0].name
    return (
        f"no access faults: the {level} entry of every process leads to the same tables as init_mm's since the "
        "process was created, and all see a new entry there at once"
    )


def _no_sync_difference(kernel: Kernel) -> str:
    if not any(cpu.faults.taken for cpu in kernel.cpus):
        return _shared(kernel)
    repaired = any(cpu.faults.repaired for cpu in kernel.cpus)
    then = (
        f"the first touch in each process faults, and {_FAULT} {'repairs' if repaired else 'does not repair'} it"
    )
    if _is_weak(kernel, _SYNC):
        return f"this architecture keeps the weak {_SYNC}(), which is empty; {then}"
    size = 1 << kernel.arch.levels[0].shift
    return (
        f"{_SYNC}() ran and copied no entry for this address: of the {size >> 20} MiB below each root entry it "
        f"visits the first address only; {then}"
    )


# ---- the scenes

_TLB_STORY = (
    "A CPU keeps translations it has used in its TLB (translation lookaside buffer), and does not look at the "
    "page tables again until they are dropped. vfree() and vunmap() clear the tables and then call "
    "flush_tlb_kernel_range, which drops them on every CPU. "
)
_CACHE_STORY = (
    "Some data caches find a line by its virtual address. One frame that is used by two addresses is then in the "
    "cache twice, and a store through one of them is a dirty line that the other does not see. "
)
_SYNC_STORY = (
    "Each process has a root page table of its own, with a copy of the kernel's entries. Later mappings of "
    "vmalloc are entered in init_mm's tables, the kernel's own, and may need an entry that the copies lack. "
)

SCENES: Mapping[str, Scene] = MappingProxyType(
    {
        scene.name: scene
        for scene in (
            Scene(
                "missing-tlb-flush",
                "A freed page that CPUs still reach, while its frame has another owner.",
                _TLB_STORY
                + "Here a page is freed, its frame goes to a second owner, and the first pointer is used.",
                _TLB,
                missing_tlb_flush,
                _no_tlb_difference,
            ),
            Scene(
                "vivt-alias",
                "Two addresses of one frame that do not show the same data.",
                _CACHE_STORY
                + "flush_cache_vmap, called when something has been mapped, writes back what was dirty.",
                _CACHE_MAP,
                vivt_alias,
                _no_cache_difference,
            ),
            Scene(
                "lost-dirty-line",
                "Stored data that never reaches its frame, because the mapping went first.",
                _CACHE_STORY
                + "flush_cache_vunmap, called before something is unmapped, writes such lines back while "
                "their address still leads somewhere.",
                _CACHE_UNMAP,
                lost_dirty_line,
                _no_cache_difference,
            ),
            Scene(
                "lazy-sync",
                "A new kernel mapping that processes learn of when they first touch it.",
                _SYNC_STORY
                + "The first touch in a process then faults, and vmalloc_fault copies the missing entry "
                "from init_mm.",
                _FAULT,
                lazy_sync,
                _no_fault_difference,
            ),
            Scene(
                "sync-all",
                "A new kernel mapping that processes are given before they touch it.",
                _SYNC_STORY
                + "vmalloc_sync_all(), which alloc_vm_area() calls, copies such entries to every process "
                "in advance, for code that must not fault.",
                _SYNC,
                sync_all,
                _no_sync_difference,
            ),
            Scene(
                "guard-page-overrun",
                "A store over the end of an area, and what its guard page is worth.",
                "Behind every area vmalloc leaves one page unmapped, the guard page: running over the end faults "
                "there. It is a guard only while no TLB has a translation for it from earlier. At the end of the "
                "scene the same store runs over a boundary that has no guard page.",
                _TLB,
                guard_page_overrun,
                _no_tlb_difference,
            ),
            Scene(
                "use-after-vfree",
                "A pointer that is used after vfree(): when it faults, and when nothing can help.",
                _TLB_STORY
                + "With it, a pointer that is kept faults; but only until its address is handed out again.",
                _TLB,
                use_after_vfree,
                _no_tlb_difference,
            ),
        )
    }
)


# ---- the jobs


def list_scenes() -> SceneList:
    """List the scenes."""
    return SceneList(tuple(SCENES.values()))


def leave_out(symbol: str) -> object:
    """Return a plugin that replaces one link symbol by a function that does nothing."""

    def hook(self: object, arch: Architecture) -> Any:
        yield  # the architecture's symbol is not used
        return _WEAK.get(symbol, weak.flush_nothing)

    return type("LeaveOut", (), {f"vmcore_{symbol}": hookimpl(wrapper=True)(hook)})()


def perform(
    name: str,
    arch: str | Architecture | None = None,
    *,
    cpus: int | None = None,
    block: Iterable[str] | None = None,
    listeners: Iterable[object] = (),
    registry: Registry | None = None,
    **machine: Any,
) -> Performance:
    """Play a scene on two kernels, one without the symbol that it is about.

    Args:
        name: Name of a scene in `SCENES`.
        arch: Architecture. It and the arguments below are as for `Kernel`.
        cpus: Number of CPUs. If it is not chosen, it is 2 if the record allows that.
        block: Plugins to leave out.
        listeners: Listeners for both kernels.
        registry: Plugins that are loaded already.
        **machine: ``ram``, ``vmalloc``, ``platform``, ``nodes``.

    Raises:
        ConfigurationError: There is no such scene.
        VmcoreError: `Kernel` refuses the machine.
    """
    if name not in SCENES:
        raise ConfigurationError(f"unknown scene {name!r}: {choices(name, SCENES, 'valid')}")
    scene = SCENES[name]
    chosen = select(arch=arch.name if isinstance(arch, Architecture) else arch, cpus=cpus, block=block)
    registry = plugins.load(chosen.block) if registry is None else registry
    record = arch if isinstance(arch, Architecture) else registry.get(chosen.arch)
    cpus = chosen.cpus if "cpus" in chosen.sources else min(2, record.max_cpus)

    def play(left_out: str) -> Stage:
        dropped = (leave_out(left_out),) if left_out else ()
        kernel = Kernel(record, cpus=cpus, check_coherence=True, listeners=(*listeners, *dropped),
                        registry=registry, **machine)  # fmt: skip
        stage = Stage(kernel, left_out)
        scene.play(stage)
        return stage

    without, complete = play(scene.symbol), play("")
    difference = _differ(without.steps, complete.steps)
    why = "" if difference else scene.harmless(complete.kernel)
    return Performance(scene, record.name, cpus, _ended(without), _ended(complete), difference, why)


def _ended(stage: Stage) -> Play:
    checker = stage.kernel.coherence
    assert checker is not None
    return Play(stage.left_out, tuple(stage.steps), tuple(checker.reports), checker.repeated)


def _differ(without: list[SceneStep], complete: list[SceneStep]) -> tuple[Difference, ...]:
    pairs = enumerate(zip(without, complete, strict=True), 1)
    return tuple(Difference(n, a.text, a.outcome, b.outcome) for n, (a, b) in pairs if a.outcome != b.outcome)
