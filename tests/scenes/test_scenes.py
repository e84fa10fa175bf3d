"""Scenes: what each shows on each machine, by what the record says; exact entries where processes are synced."""

import pytest
from attrs import evolve

from tests.support import synthetic
from vmcore import Kernel, hookimpl
from vmcore.coherence.report import FRAME_IN_USE, LOST_LINE, STALE_LINE, STALE_TRANSLATION, UNREPAIRED_FAULT
from vmcore.errors import ConfigurationError, UnknownArchitecture
from vmcore.linking import weak
from vmcore.scenes.catalogue import SCENES, leave_out, perform
from vmcore.scenes.stage import Stage, quoted, view_of
from vmcore.scenes.sync import ranges, statics_text

TLB, MAP, UNMAP, SYNC = "flush_tlb_kernel_range", "flush_cache_vmap", "flush_cache_vunmap", "vmalloc_sync_all"
NAMES = (
    "missing-tlb-flush", "vivt-alias", "lost-dirty-line", "lazy-sync", "sync-all", "guard-page-overrun",
    "use-after-vfree",
)  # fmt: skip
FAULT = "page fault"


@pytest.fixture
def show(registry):
    """Return a function that plays a scene on a record or a name."""

    def play(name, arch, *, listeners=(), **machine):
        more = synthetic.symbols(arch) if arch in synthetic.RECORDS else ()
        return perform(name, arch, registry=registry, listeners=(*listeners, *more), **machine)

    return play


def came(play, text):
    """Return the outcomes of the steps of these words; a fault is "page fault"."""
    outcomes = [step.outcome for step in play.steps if step.text == text]
    assert outcomes, text
    return [FAULT if outcome.startswith(FAULT) else outcome for outcome in outcomes]


def reports(play):
    return [(r.kind, r.cpu, r.address, r.missing) for r in play.reports]


def address(play, place):
    return next(view.address for step in play.steps for view in step.views if view.place == place)


def without_steps(play):
    """What the steps came to, without what symbols did meanwhile."""
    return [(step.text, step.outcome, step.views, step.entries) for step in play.steps]


def modelled(arch):
    return arch.hardware.cache is not None and arch.hardware.cache.modelled


# ---- translations


def test_without_the_tlb_flush_a_freed_page_is_read_and_its_next_owner_is_overwritten(arch, show):
    shown = show("missing-tlb-flush", arch)
    cpus = range(min(2, arch.max_cpus))
    assert shown.cpus == len(cpus)
    for cpu in cpus:
        loads = f"CPU {cpu} loads from old"
        assert came(shown.without, loads) == ['"alice"', '"alice"']
        assert came(shown.complete, loads) == ['"alice"', FAULT]
        assert came(shown.without, f"CPU {cpu} loads from new") == ['"wrong"']
        assert came(shown.complete, f"CPU {cpu} loads from new") == ['"bobby"']
    assert came(shown.without, 'CPU 0 stores "wrong" to old') == ["stored"]
    assert came(shown.complete, 'CPU 0 stores "wrong" to old') == [FAULT]
    old = address(shown.without, "old")
    expected = [(kind, cpu, old, TLB) for kind in (STALE_TRANSLATION, FRAME_IN_USE) for cpu in cpus]
    assert reports(shown.without) == expected
    assert reports(shown.complete) == []
    assert [d.number for d in shown.difference] == ([6, 7, 10, 11, 12] if len(cpus) == 2 else [5, 8, 9])
    assert shown.why == ""


def test_the_views_tell_stale_translations_from_good_ones(arch, show):
    shown = show("missing-tlb-flush", arch)
    freed = next(step for step in shown.without.steps if "vfree(old)" in step.text)
    frame = freed.views[0].tlb
    assert f"{TLB} is left out" in freed.notes
    for view in freed.views:
        assert (view.place, view.tables, view.gives, view.stale) == ("old", None, b"alice", True)
        assert (view.tlb, view.process, view.memory) == (frame, 0, b"alice")
    after = next(step for step in shown.complete.steps if "vfree(old)" in step.text)
    assert [(v.tlb, v.tables, v.gives, v.stale) for v in after.views] == [(None, None, None, False)] * len(
        freed.views
    )


def test_a_guard_page_is_worth_what_the_tlb_flush_before_it_was(arch, show):
    shown = show("guard-page-overrun", arch)
    store = 'CPU 0 stores "fits|over!" to edge'
    assert came(shown.without, store) == ["stored", "stored"]
    assert came(shown.complete, store) == [FAULT, "stored"]
    assert came(shown.without, "CPU 0 loads from other") == ['"over!"']
    assert came(shown.complete, "CPU 0 loads from other") == ['"bobby"']
    for play in (shown.without, shown.complete):  # no guard page between them: no flush helps
        assert came(play, "CPU 0 loads from behind") == ['"over!"']
    guard = address(shown.without, "guard")
    assert guard == address(shown.without, "area") + arch.page_size
    assert reports(shown.without) == [(STALE_TRANSLATION, 0, guard, TLB)]
    assert reports(shown.complete) == []


def test_bytes_in_front_of_a_guard_page_are_stored(arch, show):
    step = next(s for s in show("guard-page-overrun", arch).complete.steps if s.outcome.startswith(FAULT))
    guard = next(view for view in step.views if view.place == "guard")
    assert step.outcome.startswith(f"page fault at {guard.address:#x}: ")
    edge = next(view for view in step.views if view.place == "edge" and view.cpu == 0)
    assert (edge.gives, guard.gives) == (b"fits|", None)


def test_a_kept_pointer_faults_until_its_address_is_handed_out_again(arch, show):
    shown = show("use-after-vfree", arch)
    assert came(shown.without, "CPU 0 loads from kept") == ['"alice"', '"bobby"', '"carol"']
    assert came(shown.complete, "CPU 0 loads from kept") == [FAULT, FAULT, '"carol"']
    assert came(shown.without, "CPU 0 loads from new") == ['"carol"']
    assert came(shown.complete, "CPU 0 loads from new") == ['"bobby"']
    kept = address(shown.complete, "kept")
    assert address(shown.complete, "again") == kept
    assert reports(shown.without) == [(STALE_TRANSLATION, 0, kept, TLB), (FRAME_IN_USE, 0, kept, TLB)]
    assert reports(shown.complete) == []


@pytest.mark.parametrize("name", ["missing-tlb-flush", "guard-page-overrun", "use-after-vfree"])
def test_a_machine_without_a_tlb_flush_goes_wrong_in_both_plays(registry, name):
    shown = perform(name, synthetic.PLAIN, registry=registry)
    assert shown.difference == ()
    assert shown.why == f"no plugin defines {TLB} for this architecture: it does nothing in either play"
    assert reports(shown.complete) == reports(shown.without) != []


# ---- cache lines


@pytest.mark.parametrize("name", ["vivt-alias", "lost-dirty-line"])
def test_where_a_frame_is_in_the_cache_once_nothing_goes_wrong(arch, show, name):
    shown = show(name, arch)
    assert bool(shown.difference) == modelled(arch)
    assert bool(shown.why) == (not modelled(arch))
    if not modelled(arch):
        assert without_steps(shown.without) == without_steps(shown.complete)
        assert shown.why.startswith("the data caches of this machine find a line by its physical address")
        assert reports(shown.without) == reports(shown.complete) == []


@pytest.fixture
def cached(registry):
    """Records by the behaviour of their data cache."""
    v5, v7 = registry.get("armv5"), registry.get("armv7")

    def with_cache(record, **changes):
        cache = evolve(v5.hardware.cache, **changes)
        return evolve(record, hardware=evolve(record.hardware, cache=cache))

    return {
        "vivt": v5,
        "vivt that remembers frames": with_cache(v5, writes_back_by="physical"),
        "vivt that allocates on stores": with_cache(v5, write_allocate=True),
        "vipt": with_cache(v7, kind="vipt aliasing", colours=4, size=64 << 10, writes_back_by="physical"),
        "one colour": with_cache(v7, kind="vipt aliasing", colours=1, size=16 << 10, writes_back_by="physical"),
    }


KINDS = ["vivt", "vivt that remembers frames", "vivt that allocates on stores", "vipt"]


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_flush_after_mapping_two_addresses_disagree(cached, show, kind):
    shown = show("vivt-alias", cached[kind])
    for cpu in range(shown.cpus):
        assert came(shown.without, f"CPU {cpu} loads from second") == ['"older"']
        assert came(shown.complete, f"CPU {cpu} loads from second") == ['"newer"']
    second = address(shown.without, "second")
    assert reports(shown.without) == [(STALE_LINE, 0, second, MAP)]
    (report,) = shown.without.reports
    assert (report.start, report.end, report.reached) == (second, second + 0x1000, None)
    assert reports(shown.complete) == []
    last = {(view.place, view.cpu): view for view in shown.without.steps[-1].views}
    first = last["first", 0]
    assert (first.line, first.dirty, first.memory, first.gives) == (b"newer", True, b"older", b"newer")


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_flush_before_unmapping_a_dirty_line_is_late_or_lost(cached, show, kind):
    shown = show("lost-dirty-line", cached[kind])
    lost = cached[kind].hardware.cache.writes_back_by == "virtual"
    load = "CPU 0 loads from first"
    assert came(shown.without, load) == ['"older"', '"older"' if lost else '"newer"']
    assert came(shown.complete, load) == ['"newer"', '"newer"']
    first, second = address(shown.without, "first"), address(shown.without, "second")
    expected = [(STALE_LINE, 0, first, UNMAP)]
    if lost:
        expected += [(LOST_LINE, 0, second, UNMAP)]
        assert shown.without.repeated == 1  # the second load is stale for want of the same flush
    assert reports(shown.without) == expected
    assert reports(shown.complete) == []


def test_a_vivt_line_outlives_its_mapping(cached, show):
    shown = show("lost-dirty-line", cached["vivt"])
    step = next(s for s in shown.without.steps if "vunmap" in s.text)
    view = next(v for v in step.views if v.place == "second")
    assert (view.tlb, view.tables, view.line, view.dirty, view.gives) == (None, None, b"newer", True, None)


@pytest.mark.parametrize("name", ["vivt-alias", "lost-dirty-line"])
def test_addresses_of_one_colour_share_their_lines(cached, show, name):
    shown = show(name, cached["one colour"])
    assert shown.difference == ()
    assert shown.why == "both addresses of the frame have the same cache colour, and so the same line"


@pytest.mark.parametrize("name", ["missing-tlb-flush", "guard-page-overrun", "use-after-vfree"])
@pytest.mark.parametrize("kind", KINDS)
def test_translations_go_stale_under_any_cache(cached, show, name, kind):
    shown = show(name, cached[kind])
    assert shown.difference
    assert {r.kind for r in shown.without.reports if r.missing} <= {STALE_TRANSLATION, FRAME_IN_USE}
    assert {r.missing for r in shown.without.reports} - {""} == {TLB}
    assert reports(shown.complete) == []


def test_a_record_without_a_linear_map_uses_an_earlier_mapping(cached, show):
    shown = show("vivt-alias", evolve(cached["vivt"], linear_map=None))
    assert came(shown.without, "CPU 0 loads from second") == ['"older"']
    assert came(shown.complete, "CPU 0 loads from second") == ['"newer"']
    assert shown.without.steps[0].text == 'CPU 0: first = vmap(a frame that holds "older")'


# ---- processes

#: level, index, and the addresses of init_mm's and two processes' entries
ENTRIES = {
    ("i386-highmem", None): ("pgd", 994, (0x300F88, 0x1000F88, 0x1001F88)),
    ("i386-pae-highmem", "paravirt"): ("pmd", 452, (0x1000E20, 0x1002E20, 0x1004E20)),
    ("x86_64", None): ("pgd", 388, (0x300C20, 0x1004C20, 0x1005C20)),
    ("armv5", None): ("pgd", 1668, (0x7420, 0x403420, 0x407420)),
    ("armv7", None): ("pgd", 1668, (0x7420, 0x403420, 0x407420)),
}
#: the words of the entries, in lazy-sync and in sync-all
WORDS = {
    ("i386-highmem", None): ((0x1002067,), (0x1002067,)),
    ("i386-pae-highmem", "paravirt"): ((0x1005067,), (0x1005067,)),
    ("x86_64", None): ((0x1008067,), (0x1006067,)),
    ("armv5", None): ((0x40A011, 0x40A411), (0x408011, 0x408411)),
    ("armv7", None): ((0x40A011, 0x40A411), (0x408011, 0x408411)),
}
AFTER_A_FAULT = ", after a fault that vmalloc_fault repaired"


def changes(play):
    """Return (step, process, address of the entry, words before, words after) of every change."""
    return [
        (number, e.process, e.address, e.before, e.after)
        for number, step in enumerate(play.steps, 1)
        for e in step.entries
        if e.before != e.after
    ]


def touches(play):
    """Return the outcomes of the loads, process after process, faults as "page fault"."""
    loads = [step.outcome for step in play.steps if " loads from " in step.text]
    return [FAULT if outcome.startswith(FAULT) else outcome for outcome in loads]


@pytest.mark.parametrize("machine", ENTRIES)
def test_the_first_touch_in_each_process_copies_one_entry(show, machine):
    name, platform = machine
    shown = show("lazy-sync", name, platform=platform)
    level, index, (init, one, two) = ENTRIES[machine]
    words = WORDS[machine][0]
    none = (0,) * len(words)
    last = shown.complete.steps[-1].entries
    assert [(e.process, e.level, e.index, e.address) for e in last] == [
        (0, level, index, init), (1, level, index, one), (2, level, index, two)
    ]  # fmt: skip
    second = 5 if shown.cpus == 2 else 6
    assert changes(shown.complete) == [(2, 0, init, none, words), (3, 1, one, none, words),
                                       (second, 2, two, none, words)]  # fmt: skip
    assert changes(shown.without) == [(2, 0, init, none, words)]
    assert touches(shown.complete) == ['"alice"' + AFTER_A_FAULT, '"bobby"'] * 2
    assert touches(shown.without) == [FAULT] * 4
    area = address(shown.complete, "page 1")
    pages = [area, area + 0x1000]
    cpus = [0, 1] if shown.cpus == 2 else [0]
    assert reports(shown.without) == [(UNREPAIRED_FAULT, cpu, at, SYNC) for cpu in cpus for at in pages]
    assert shown.without.repeated == (0 if shown.cpus == 2 else 2)
    assert reports(shown.complete) == []


@pytest.mark.parametrize("machine", ENTRIES)
def test_vmalloc_sync_all_makes_the_fault_unnecessary_where_it_reaches_the_entry(show, machine):
    name, platform = machine
    shown = show("sync-all", name, platform=platform)
    _, _, (init, one, two) = ENTRIES[machine]
    words = WORDS[machine][1]
    none = (0,) * len(words)
    second = 6 if shown.cpus == 2 else 7
    lazily = [(2, 0, init, none, words), (4, 1, one, none, words), (second, 2, two, none, words)]
    at_once = [(2, process, at, none, words) for process, at in enumerate((init, one, two))]
    reached = name in ("i386-highmem", "x86_64")
    assert changes(shown.without) == lazily
    assert changes(shown.complete) == (at_once if reached else lazily)
    assert touches(shown.without) == ['"alice"' + AFTER_A_FAULT, '"bobby"'] * 2
    assert touches(shown.complete) == (['"alice"', '"bobby"'] * 2 if reached else touches(shown.without))
    assert bool(shown.difference) == reached
    assert reports(shown.without) == reports(shown.complete) == []


@pytest.mark.parametrize(
    ("name", "platform", "kept", "why"),
    [
        ("i386-highmem", None, "insync 768-991, 994, start 0xf8000000", ""),
        ("x86_64", None, "insync 388, start 0xffffc28000000000", ""),
        (
            "i386-pae-highmem",
            "paravirt",
            "insync 3, start 0x0",
            "vmalloc_sync_all() ran and copied no entry for this address: of the 1024 MiB below each root entry "
            "it visits the first address only; the first touch in each process faults, and vmalloc_fault repairs "
            "it",
        ),
        (
            "armv7",
            None,
            "nothing",
            "this architecture keeps the weak vmalloc_sync_all(), which is empty; the first touch in each process "
            "faults, and vmalloc_fault repairs it",
        ),
    ],
)
def test_what_vmalloc_sync_all_keeps_between_calls(show, name, platform, kept, why):
    shown = show("sync-all", name, platform=platform)
    assert shown.complete.steps[1].notes[-1] == f"vmalloc_sync_all keeps {kept}"
    assert shown.without.steps[1].notes[-1] == "vmalloc_sync_all is left out"
    assert shown.why == why


@pytest.mark.parametrize("scene", ["lazy-sync", "sync-all"])
@pytest.mark.parametrize("name", ["i386-pae", "i386-pae-highmem"])
def test_a_shared_kernel_pmd_needs_neither_fault_nor_sync(show, scene, name):
    shown = show(scene, name)
    assert touches(shown.complete) == touches(shown.without) == ['"alice"', '"bobby"'] * 2
    assert changes(shown.complete) == []
    entries = shown.complete.steps[-1].entries
    assert [(e.process, e.level, e.index, e.after) for e in entries] == [
        (process, "pgd", 3, (0x1000001,)) for process in range(3)
    ]
    assert shown.why.startswith("no access faults: the pgd entry of every process leads to the same tables")
    assert (shown.difference, reports(shown.without), reports(shown.complete)) == ((), [], [])


@pytest.mark.parametrize("scene", ["lazy-sync", "sync-all"])
def test_a_stranger_without_vmalloc_fault_faults_for_good(show, scene):
    shown = show(scene, synthetic.DEEP)
    assert touches(shown.complete) == touches(shown.without) == [FAULT] * 4
    assert {r.kind for r in shown.complete.reports} == {UNREPAIRED_FAULT}
    assert "repairs it" not in shown.why
    assert shown.why != ""


def keeping_absence(record):
    tlb = evolve(record.hardware.tlb, keeps_absent=True)
    return evolve(record, hardware=evolve(record.hardware, tlb=tlb))


def test_a_tlb_that_keeps_absence_does_not_hide_that_a_process_lacks_an_entry(registry):
    shown = perform("lazy-sync", keeping_absence(synthetic.PLAIN), registry=registry)
    assert {r.missing for r in shown.complete.reports} == {SYNC}


def test_a_tlb_that_keeps_absence_misses_what_is_mapped_later(registry):
    record = keeping_absence(synthetic.PLAIN)
    shown = perform("use-after-vfree", record, registry=registry, listeners=[synthetic.Flushes()])
    kept = address(shown.complete, "kept")
    assert came(shown.complete, 'CPU 0 stores "carol" to again') == [FAULT]
    assert reports(shown.complete) == [(UNREPAIRED_FAULT, 0, kept, MAP)]


def test_one_cpu_switches_between_processes(show):
    shown = show("lazy-sync", "armv7", cpus=1)
    assert [step.text for step in shown.complete.steps[4:5]] == ["CPU 0 switches to process 2"]
    assert {view.process for view in shown.complete.steps[-1].views} == {2}


# ---- every scene, every machine


@pytest.mark.parametrize("name", NAMES)
def test_every_scene_plays_everywhere_and_says_why_nothing_goes_wrong(arch, show, name):
    shown = show(name, arch)
    assert [step.text for step in shown.without.steps] == [step.text for step in shown.complete.steps]
    assert bool(shown.why) != bool(shown.difference)
    assert (shown.without.left_out, shown.complete.left_out) == (shown.scene.symbol, "")
    assert (shown.arch, shown.cpus) == (arch.name, min(2, arch.max_cpus))
    for d in shown.difference:
        assert shown.without.steps[d.number - 1].outcome == d.without != d.with_it


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cpus", [1, 4])
def test_any_number_of_cpus(show, name, cpus):
    shown = show(name, "i386", cpus=cpus)
    assert shown.cpus == cpus
    assert {view.cpu for view in shown.complete.steps[-1].views} == set(range(cpus))
    assert reports(shown.complete) == []


def test_the_names():
    assert tuple(SCENES) == NAMES
    for name, scene in SCENES.items():
        assert scene.name == name
        assert scene.symbol in {TLB, MAP, UNMAP, SYNC, "vmalloc_fault"}


def test_unknown_names(registry):
    with pytest.raises(ConfigurationError, match="unknown scene 'vivt-alis': did you mean 'vivt-alias'"):
        perform("vivt-alis", "i386", registry=registry)
    with pytest.raises(UnknownArchitecture):
        perform("vivt-alias", "i387", registry=registry)


def test_the_number_of_cpus_may_come_from_outside(registry, monkeypatch):
    monkeypatch.setenv("VMCORE_CPUS", "3")
    assert perform("sync-all", "i386", registry=registry).cpus == 3
    assert perform("sync-all", "i386", registry=registry, cpus=1).cpus == 1


# ---- the parts


@pytest.mark.parametrize("symbol", [TLB, MAP, UNMAP, SYNC, "vmalloc_fault"])
def test_leaving_out_makes_one_symbol_the_weak_one(registry, symbol):
    plain = Kernel("armv5", ram="64M", registry=registry).linked
    linked = Kernel("armv5", ram="64M", registry=registry, listeners=[leave_out(symbol)]).linked
    assert getattr(linked, symbol) in (weak.flush_nothing, weak.vmalloc_sync_all, weak.vmalloc_fault)
    for other in {TLB, MAP, UNMAP, SYNC, "vmalloc_fault"} - {symbol}:
        assert getattr(linked, other).__name__ == getattr(plain, other).__name__
        assert getattr(linked, other).__doc__ == getattr(plain, other).__doc__


def test_looking_changes_nothing(arch, kernel):
    k = kernel(arch, ram="64M", cpus=1)
    at = k.vmalloc(arch.page_size)
    before = (len(k.cpu.tlb), k.cpu.faults.taken, bytes(k.memory.read(k.layout.swapper_pg_dir, arch.root_bytes)))
    view = view_of(k, k.cpu, "here", at)
    assert (view.tlb, view.tables, view.gives) == (None, k.vmalloc_to_pfn(at) << arch.page_shift, bytes(5))
    after = (len(k.cpu.tlb), k.cpu.faults.taken, bytes(k.memory.read(k.layout.swapper_pg_dir, arch.root_bytes)))
    assert after == before
    k.cpu.store(at, b"hello")
    assert view_of(k, k.cpu, "here", at).gives == b"hello" == k.cpu.load(at, 5)


class Adds:
    """A plugin's vmalloc_sync_all that keeps something of its own."""

    @hookimpl
    def vmcore_vmalloc_sync_all(self, arch):
        return lambda kernel: kernel.statics.update(note="mine") if arch is synthetic.DEEP else None


def test_what_a_strangers_sync_keeps_is_shown(show):
    shown = show("sync-all", synthetic.DEEP, listeners=[Adds()])
    assert shown.complete.steps[1].notes == ("vmalloc_sync_all keeps note mine",)


def test_numbers_as_ranges():
    assert ranges({1, 2, 3, 5, 9, 8}) == "1-3, 5, 8-9"
    assert statics_text({"vmalloc_sync_all.insync": set(), "vmalloc_sync_all.start": 16}) == (
        "vmalloc_sync_all keeps insync empty, start 0x10"
    )


def test_bytes_as_people_read_them():
    assert [quoted(data) for data in (None, b"abc", bytes(4), b"\xff\x01")] == ["-", '"abc"', "zeros", "ff01"]


def test_a_stage_writes_down_what_is_done(kernel):
    stage = Stage(kernel("i386", ram="64M", check_coherence=True))
    at = stage.allocate("here", "a page")
    assert stage.store(0, "here", b"alice")
    assert stage.load(0, "here") == b"alice"
    assert [(step.text, step.outcome) for step in stage.steps] == [
        ("CPU 0: here = vmalloc(4096), a page", f"here is {at:#x}"),
        ('CPU 0 stores "alice" to here', "stored"),
        ("CPU 0 loads from here", '"alice"'),
    ]
    stage.addresses["here"] += 4096
    assert stage.load(0, "here") is None
    assert not stage.store(0, "here", b"alice")
