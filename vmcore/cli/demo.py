"""``vmcore demo``: short scenes that show what breaks without a flush, a sync or a handler.

With ``--json`` and a name, one object:

- ``schema``: 1; ``scene``, ``title``, ``symbol`` (what the scene is about), ``arch``, ``cpus``.
- ``without``, ``with``: the two plays, without the symbol and with it: ``steps``, ``reports``, ``repeated``
  (how many more reports of the same kind, CPU and page there were).
- a step: ``text``, ``outcome``, ``notes`` (what symbols did), ``views``, ``entries``.
- a view, one for each CPU and place: ``place``, ``address``, ``cpu``, ``process`` (0: init_mm), ``tlb`` and
  ``tables`` (the page's physical address, "absent", or null: none), ``line`` (bytes in the CPU's cache, or null),
  ``dirty``, ``memory`` (bytes in the frame, or null), ``gives`` (what a load gives; null: a fault), ``stale``
  (the TLB says otherwise than init_mm's tables).
- an entry: ``process`` (0: init_mm), ``level``, ``index``, ``address``, ``word_bytes``, ``before`` and ``after``
  (lists of words).
- a report: ``kind``, ``cpu``, ``address``, ``start``, ``end``, ``missing``, ``text``, ``history``, ``reached``.
- ``difference``: a list of ``step`` (a number, from 1), ``text``, ``without``, ``with``.
- ``why``: why nothing goes wrong on this machine; empty where there is a difference.

Without a name: ``schema`` and ``scenes``, a list of ``name``, ``title`` and ``symbol``.
Addresses and words are strings ("0xc0000000"), bytes strings of hex digits ("616c").
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click
from attrs import asdict, evolve

from vmcore.cli.console import Console, write_json
from vmcore.cli.options import machine_options
from vmcore.cli.output import echo
from vmcore.scenes.catalogue import SCENES, Performance, Play, perform
from vmcore.scenes.stage import EntryView, Step, View, quoted
from vmcore.views.coherence import told_report
from vmcore.wording import counted

if TYPE_CHECKING:
    from vmcore.linking.selection import Selection

Line = tuple[str, str]  # style, text
_WIDTH = 100

# ---- for programs


def _json(performance: Performance) -> dict[str, Any]:
    scene = performance.scene
    return {
        "schema": 1,
        "scene": scene.name,
        "title": scene.title,
        "symbol": scene.symbol,
        "arch": performance.arch,
        "cpus": performance.cpus,
        "without": _play(performance.without),
        "with": _play(performance.complete),
        "difference": [
            {"step": d.number, "text": d.text, "without": d.without, "with": d.with_it}
            for d in performance.difference
        ],
        "why": performance.why,
    }


def _play(play: Play) -> dict[str, Any]:
    return {
        "steps": [
            asdict(step) | {"views": [_view(v) for v in step.views], "entries": [_entry(e) for e in step.entries]}
            for step in play.steps
        ],
        "reports": [report.to_dict() for report in play.reports],
        "repeated": play.repeated,
    }


def _view(view: View) -> dict[str, Any]:
    facts = asdict(view) | {"address": hex(view.address), "tlb": _where(view.tlb), "tables": _where(view.tables)}
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in facts.items()}


def _where(physical: int | None) -> str | None:
    return None if physical is None else "absent" if physical < 0 else hex(physical)


def _entry(entry: EntryView) -> dict[str, Any]:
    words = {"before": [hex(word) for word in entry.before], "after": [hex(word) for word in entry.after]}
    return asdict(entry) | {"address": hex(entry.address)} | words


# ---- for people


def _told(performance: Performance) -> Iterator[Line]:
    scene = performance.scene
    cpus = counted(performance.cpus, "CPU")
    yield "bold", f"{scene.name} on {performance.arch}, {cpus}"
    yield "bold", scene.title
    yield "", ""
    yield from _wrapped(scene.story)
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


def _wrapped(text: str, indent: str = "", style: str = "", hang: str | None = None) -> Iterator[Line]:
    wrapper = textwrap.TextWrapper(
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if hang is None else hang,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in wrapper.wrap(text):
        yield style, line


def _legend(performance: Performance) -> Iterator[Line]:
    yield from _wrapped(
        "Below each step, for the addresses it changes: where the CPU's TLB and the page tables it runs on say "
        "the page is in RAM, what its data cache has for it, what the frame it leads to holds, and what a load "
        'would give. "-" is nothing. A cached line that RAM does not have yet is dirty; a TLB entry that the '
        "tables of init_mm, the kernel's own, do not confirm is stale.",
        style="dim",
    )
    if any(step.entries for step in performance.complete.steps):
        yield from _wrapped("Page-table entries are those that every process has a copy of.", style="dim")


def _first(performance: Performance) -> Iterator[Line]:
    play = performance.without
    yield "bold red", f"Without {play.left_out}"
    yield from _steps(performance, play, 0)


def _second(performance: Performance) -> Iterator[Line]:
    """Tell the second play from where it goes another way."""
    yield "bold green", f"With {performance.scene.symbol}"
    pairs = zip(performance.without.steps, performance.complete.steps, strict=True)
    first = next((n for n, (a, b) in enumerate(pairs) if _seen(a) != _seen(b)), None)
    if first is None:
        yield "", "     every step comes out the same"
        return
    if first:
        yield "", "     step 1 as above" if first == 1 else f"     steps 1 to {first} as above"
    yield from _steps(performance, performance.complete, first)


def _seen(step: Step) -> tuple[object, ...]:
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
        yield from _wrapped(f"{number + 1:>2}.  {step.text}", "", "bold", "     ")
        if step.outcome:
            yield from _wrapped(f"=> {step.outcome}", "     ", "cyan", "        ")
        for note in step.notes:
            yield from _wrapped(note, "     ", "dim", "       ")
        for style, row in _rows(step.views, () if before is None else before.views, cached):
            yield style, f"     {row}"
        known = {entry.address for entry in before.entries} if before is not None else set()
        for entry in step.entries:
            if entry.before != entry.after or entry.address not in known:
                yield "yellow", f"     {_told_entry(entry)}"


def _row(place: str, who: str, tlb: str, tables: str, cache: str | None, frame: str, gives: str) -> str:
    middle = "" if cache is None else f"{cache:<14} "
    return f"{place:<8} {who:<17} {tlb:<17} {tables:<12} {middle}{frame:<9} {gives}"


def _rows(views: tuple[View, ...], before: tuple[View, ...], cached: bool) -> Iterator[Line]:
    """Give the rows of each place that a step has changed, CPUs that see the same together."""
    changed = {view.place for view in views if view not in before}
    shown = (view for view in views if view.place in changed)
    for _, group in groupby(shown, lambda view: evolve(view, cpu=0)):
        same = list(group)
        view, first, last = same[0], same[0].cpu, same[-1].cpu
        who = f"CPU {first}" if first == last else f"CPU {first}-{last}"
        who += f", process {view.process}" if view.process else ""
        tlb = (_where(view.tlb) or "-") + (" stale" if view.stale else "")
        line = quoted(view.line) + (" dirty" if view.dirty else "") if cached else None
        gives = "a fault" if view.gives is None else quoted(view.gives)
        yield (
            "red" if view.stale else "",
            _row(view.place, who, tlb, _where(view.tables) or "-", line, quoted(view.memory), gives),
        )


def _told_entry(entry: EntryView) -> str:
    who = f"process {entry.process}" if entry.process else "init_mm"
    width = 2 * entry.word_bytes
    before, after = (" ".join(f"{word:0{width}x}" for word in words) for words in (entry.before, entry.after))
    words = after if before == after else f"{before} becomes {after}"
    return f"{who:<10} {entry.level}[{entry.index}] at {entry.address:#x}: {words}"


def _difference(performance: Performance) -> Iterator[Line]:
    symbol = performance.scene.symbol
    yield "bold", f"What {symbol} makes of it"
    if not performance.difference:
        yield from _wrapped(f"Nothing: {performance.why}.")
    for d in performance.difference:
        yield "", f"{d.number:>2}.  {d.text}"
        yield from _wrapped(f"without  {d.without}", "     ", "red", " " * 14)
        yield from _wrapped(f"with     {d.with_it}", "     ", "green", " " * 14)


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
            yield from told_report(evolve(report, history=("as above",)) if known else report, _WIDTH)


# ---- the command


def _list(as_json: bool) -> None:
    if as_json:
        scenes = [{"name": s.name, "title": s.title, "symbol": s.symbol} for s in SCENES.values()]
        write_json({"schema": 1, "scenes": scenes})
        return
    width = max(map(len, SCENES))
    for scene in SCENES.values():
        echo(f"{scene.name:<{width}}  {scene.title}")


@click.command(epilog="What is modelled, and how to read a report: docs/coherence.md.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@machine_options(need_arch=False)
def command(name: str | None, as_json: bool, selection: Selection) -> None:
    """Show what breaks without a flush or a sync, step by step.

    Without NAME the scenes are listed. Each is played twice, without the symbol it is about and with it, on two
    CPUs where the architecture may have them and nobody says otherwise.
    """
    if name is None:
        _list(as_json)
        return
    performance = perform(
        name,
        selection.arch or None,
        cpus=selection.cpus if "cpus" in selection.sources else None,
        block=selection.block,
        ram=selection.ram,
        vmalloc=selection.vmalloc,
        platform=selection.platform,
        nodes=selection.nodes,
    )
    if as_json:
        write_json(_json(performance))
        return
    console = Console(highlight=False)
    console.say(_told(performance))
