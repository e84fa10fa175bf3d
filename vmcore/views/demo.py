"""Show a scene: both plays step by step, the difference, and the reports of the coherence checker."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from attrs import evolve

from vmcore.scenes.result import CpuView, EntryView, Performance, Play, SceneList, SceneStep, place_text
from vmcore.scenes.stage import quoted
from vmcore.views.coherence import report_lines
from vmcore.views.lines import Line, wrap
from vmcore.wording import counted

WIDTH = 100  #: columns of a line


def titles(scenes: SceneList) -> Iterator[Line]:
    """Yield the name and the title of each scene."""
    width = max(len(scene.name) for scene in scenes.scenes)
    for scene in scenes.scenes:
        yield "", f"{scene.name:<{width}}  {scene.title}"


def lines(performance: Performance) -> Iterator[Line]:
    """Yield the lines of both plays: the first in full, the second from where it differs."""
    scene = performance.scene
    cpus = counted(performance.cpus, "CPU")
    yield "bold", f"{scene.name} on {performance.arch}, {cpus}"
    yield "bold", scene.title
    yield "", ""
    yield from wrap(scene.story, WIDTH)
    yield "", ""
    yield from _legend(performance)
    yield "", ""
    yield from _first(performance)
    yield "", ""
    yield from _second(performance)
    yield "", ""
    yield from _difference(performance)
    yield "", ""
    yield from _checker(performance)


def _legend(performance: Performance) -> Iterator[Line]:
    yield from wrap(
        "Below each step, for the addresses it changes: where the CPU's TLB and the page tables it runs on say "
        "the page is in RAM, what its data cache has for it, what the frame it leads to holds, and what a load "
        'would give. "-" is nothing. A cached line that RAM does not have yet is dirty; a TLB entry that the '
        "tables of init_mm, the kernel's own, do not confirm is stale.",
        WIDTH,
        style="dim",
    )
    if any(step.entries for step in performance.complete.steps):
        yield from wrap("Page-table entries are those that every process has a copy of.", WIDTH, style="dim")


def _first(performance: Performance) -> Iterator[Line]:
    play = performance.without
    yield "bold red", f"Without {play.left_out}"
    yield from _steps(performance, play, 0)


def _second(performance: Performance) -> Iterator[Line]:
    """Yield the second play from the first step that differs."""
    yield "bold green", f"With {performance.scene.symbol}"
    pairs = zip(performance.without.steps, performance.complete.steps, strict=True)
    first = next((n for n, (a, b) in enumerate(pairs) if _seen(a) != _seen(b)), None)
    if first is None:
        yield "", "     every step comes out the same"
        return
    if first:
        yield "", "     step 1 as above" if first == 1 else f"     steps 1 to {first} as above"
    yield from _steps(performance, performance.complete, first)


def _seen(step: SceneStep) -> tuple[object, ...]:
    return step.outcome, step.views, step.entries


def _steps(performance: Performance, play: Play, first: int) -> Iterator[Line]:
    cached = any(
        v.line is not None for p in (performance.without, performance.complete) for s in p.steps for v in s.views
    )
    yield (
        "dim",
        "     "
        + _row("address", "seen by", "TLB", "tables", "cache" if cached else None, "frame", "a load gives"),
    )
    for number, step in list(enumerate(play.steps))[first:]:
        before = play.steps[number - 1] if number else None
        yield from wrap(f"{number + 1:>2}.  {step.text}", WIDTH, hang="     ", style="bold")
        if step.outcome:
            yield from wrap(f"=> {step.outcome}", WIDTH, indent="     ", hang="        ", style="cyan")
        for note in step.notes:
            yield from wrap(note, WIDTH, indent="     ", hang="       ", style="dim")
        for style, row in _rows(step.views, () if before is None else before.views, cached):
            yield style, f"     {row}"
        known = {entry.address for entry in before.entries} if before is not None else set()
        for entry in step.entries:
            if entry.before != entry.after or entry.address not in known:
                yield "yellow", f"     {_entry_text(entry)}"


def _row(place: str, who: str, tlb: str, tables: str, cache: str | None, frame: str, gives: str) -> str:
    middle = "" if cache is None else f"{cache:<14} "
    return f"{place:<8} {who:<17} {tlb:<17} {tables:<12} {middle}{frame:<9} {gives}"


def _rows(views: tuple[CpuView, ...], before: tuple[CpuView, ...], cached: bool) -> Iterator[Line]:
    """Yield the rows of each place that a step has changed, one row for all CPUs that see the same."""
    changed = {view.place for view in views if view not in before}
    shown = (view for view in views if view.place in changed)
    for _, group in groupby(shown, lambda view: evolve(view, cpu=0)):
        same = list(group)
        view, first, last = same[0], same[0].cpu, same[-1].cpu
        who = f"CPU {first}" if first == last else f"CPU {first}-{last}"
        who += f", process {view.process}" if view.process else ""
        tlb = (place_text(view.tlb) or "-") + (" stale" if view.stale else "")
        line = quoted(view.line) + (" dirty" if view.dirty else "") if cached else None
        gives = "a fault" if view.gives is None else quoted(view.gives)
        yield (
            "red" if view.stale else "",
            _row(view.place, who, tlb, place_text(view.tables) or "-", line, quoted(view.memory), gives),
        )


def _entry_text(entry: EntryView) -> str:
    who = f"process {entry.process}" if entry.process else "init_mm"
    width = 2 * entry.word_bytes
    before, after = (" ".join(f"{word:0{width}x}" for word in words) for words in (entry.before, entry.after))
    words = after if before == after else f"{before} becomes {after}"
    return f"{who:<10} {entry.level}[{entry.index}] at {entry.address:#x}: {words}"


def _difference(performance: Performance) -> Iterator[Line]:
    symbol = performance.scene.symbol
    yield "bold", f"What {symbol} makes of it"
    if not performance.difference:
        yield from wrap(f"Nothing: {performance.why}.", WIDTH)
    for d in performance.difference:
        yield "", f"{d.number:>2}.  {d.text}"
        yield from wrap(f"without  {d.without}", WIDTH, indent="     ", hang=" " * 14, style="red")
        yield from wrap(f"with     {d.with_it}", WIDTH, indent="     ", hang=" " * 14, style="green")


def _checker(performance: Performance) -> Iterator[Line]:
    yield "bold", "What the coherence checker says"
    symbol = performance.scene.symbol
    for words, play in ((f"without {symbol}", performance.without), (f"with {symbol}", performance.complete)):
        if not play.reports:
            yield "", f"{words}: nothing"
            continue
        again = f", and {play.repeated:,} more of the same" if play.repeated else ""
        yield "", f"{words}: {counted(len(play.reports), 'report')}{again}"
        for number, report in enumerate(play.reports):
            known = number > 0 and play.reports[number - 1].history == report.history
            yield from report_lines(evolve(report, history=("as above",)) if known else report, WIDTH)
