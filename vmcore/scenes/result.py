"""The result of a scene: its steps, the view of each CPU after each, and the keys of its JSON object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import asdict, frozen

from vmcore.coherence.facts import REPORT
from vmcore.coherence.report import Report
from vmcore.facts import Facts, Key, Schema, Shape

if TYPE_CHECKING:
    from vmcore.scenes.catalogue import Scene

# ---- the keys

_VIEW = Shape(
    "view of a CPU",
    (
        Key("place", "string", "Name that the scene gives the address."),
        Key("address", "string", "The address.", "address"),
        Key("cpu", "number", "The CPU."),
        Key("process", "number", "Process that it runs; 0: none, init_mm's tables are in use."),
        Key("tlb", "string or null", 'Physical address of the page by the TLB; "absent": the TLB holds that '
            "nothing is mapped; null: it has no entry.", "address"),
        Key("tables", "string or null", "Physical address of the page by the tables in use; null: not mapped.",
            "address"),
        Key("line", "string or null", "Bytes in the data cache of the CPU; null: there are none.", "hex digits"),
        Key("dirty", "boolean", "Whether RAM lacks these bytes."),
        Key("memory", "string or null", "Bytes of the frame that a load comes to; null: it comes to none.",
            "hex digits"),
        Key("gives", "string or null", "Bytes that a load gives; null: it faults.", "hex digits"),
        Key("stale", "boolean", "Whether the TLB disagrees with init_mm's tables."),
    ),
)  # fmt: skip
_ENTRY = Shape(
    "page-table entry",
    (
        Key("process", "number", "Process whose tables have the entry; 0: init_mm."),
        Key("level", "string", "Name of the level."),
        Key("index", "number", "Index of the entry in its table."),
        Key("address", "string", "Physical address of its first word.", "address"),
        Key("word_bytes", "number", "Size of a word.", "bytes"),
        Key("before", "list of string", "Its words before the step.", "hex"),
        Key("after", "list of string", "Its words after the step.", "hex"),
    ),
)
_STEP = Shape(
    "step of a scene",
    (
        Key("text", "string", "The action, for people."),
        Key("outcome", "string", "Its outcome; empty where there is nothing to say."),
        Key("notes", "list of string", "Actions of the architecture's symbols in this step."),
        Key("views", "list of object", "Each CPU's view of each place named so far, after the step.", shape=_VIEW),
        Key("entries", "list of object", "Page-table entries that the scene is about.", shape=_ENTRY),
    ),
)
_PLAY = Shape(
    "play",
    (
        Key("steps", "list of object", "The steps, in order.", shape=_STEP),
        Key("reports", "list of object", "Reports of the coherence checker, oldest first.", shape=REPORT),
        Key("repeated", "number", "Further reports of the same kind, CPU and page."),
    ),
)
SCHEMA: Final = Schema(
    "vmcore.demo/1",
    "vmcore demo NAME",
    "A scene, played without the symbol that it is about and with it.",
    (
        Key("scene", "string", "Name of the scene."),
        Key("title", "string", "One line about it."),
        Key("symbol", "string", "Symbol that it is about."),
        Key("arch", "string", "Architecture that it was played on."),
        Key("cpus", "number", "CPUs of the machine."),
        Key("without", "object", "The play without the symbol.", shape=_PLAY),
        Key("with", "object", "The play with it.", shape=_PLAY),
        Key("difference", "list of object", "Steps that came out differently.", shape=Shape(
            "difference",
            (
                Key("step", "number", "Number of the step, from 1."),
                Key("text", "string", "The action, for people."),
                Key("without", "string", "Outcome without the symbol."),
                Key("with", "string", "Outcome with it."),
            ),
        )),
        Key("why", "string", "Why nothing goes wrong on this machine; empty where there is a difference."),
    ),
)  # fmt: skip
LIST_SCHEMA: Final = Schema(
    "vmcore.scenes/1",
    "vmcore demo",
    "The scenes.",
    (
        Key("scenes", "list of object", "The scenes, in the order of the list.", shape=Shape(
            "scene",
            (
                Key("name", "string", "Name, for `vmcore demo NAME`."),
                Key("title", "string", "One line about it."),
                Key("symbol", "string", "Symbol that it is about."),
            ),
        )),
    ),
)  # fmt: skip

# ---- the result


@frozen
class CpuView:
    """The view of one CPU of one address: its TLB, tables and cache, and the bytes that a load would give.

    Attributes:
        place: Name that the scene gives the address.
        address: Virtual, bytes.
        cpu: Number of the CPU.
        process: Number of the process it runs, 0 for init_mm.
        tlb: Physical address of the page by its TLB. -1 if its entry says "not mapped". None without an entry.
        tables: Physical address of the page by the tables in use, or None if it is not mapped.
        line: Bytes that its data cache has for the address, or None.
        dirty: Whether memory lacks these bytes.
        memory: Bytes of the frame that a load reaches, or None if it reaches none.
        gives: Bytes that a load returns, or None if it faults.
        stale: Whether the TLB disagrees with init_mm's tables.
    """

    place: str
    address: int
    cpu: int
    process: int
    tlb: int | None
    tables: int | None
    line: bytes | None
    dirty: bool
    memory: bytes | None
    gives: bytes | None
    stale: bool

    def facts(self) -> Facts:
        """Return the view with addresses and bytes in hex."""
        places = {"address": hex(self.address), "tlb": place_text(self.tlb), "tables": place_text(self.tables)}
        values = asdict(self) | places
        return {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}


@frozen
class EntryView:
    """A page-table entry of init_mm (process 0) or of a process, before and after a step.

    Attributes:
        process: Number of the process whose tables have it.
        level: Name of the level.
        index: Index of the entry in its table.
        address: Physical address of its first word, bytes.
        word_bytes: Bytes of a word.
        before: Its words before the step.
        after: Its words after the step.
    """

    process: int
    level: str
    index: int
    address: int
    word_bytes: int
    before: tuple[int, ...]
    after: tuple[int, ...]

    def facts(self) -> Facts:
        """Return the entry with its address and words in hex."""
        words = {"before": [hex(word) for word in self.before], "after": [hex(word) for word in self.after]}
        return asdict(self) | {"address": hex(self.address)} | words


@frozen
class SceneStep:
    """One step of a scene.

    Attributes:
        text: The action, for people.
        outcome: Its outcome, or "" if there is nothing to say.
        notes: Actions of the architecture's symbols in this step.
        views: View of each CPU, of every place the scene has named, after the step.
        entries: Page-table entries that the scene is about.
    """

    text: str
    outcome: str
    notes: tuple[str, ...]
    views: tuple[CpuView, ...]
    entries: tuple[EntryView, ...]

    def facts(self) -> Facts:
        """Return the step as numbers, strings, lists and objects."""
        return {
            "text": self.text,
            "outcome": self.outcome,
            "notes": list(self.notes),
            "views": [view.facts() for view in self.views],
            "entries": [entry.facts() for entry in self.entries],
        }


@frozen
class Play:
    """One run of a scene.

    Attributes:
        left_out: Symbol that was replaced by nothing, or "" if none was.
        steps: The steps, in order.
        reports: Reports of the coherence checker.
        repeated: Number of further reports of the same.
    """

    left_out: str
    steps: tuple[SceneStep, ...]
    reports: tuple[Report, ...]
    repeated: int

    def facts(self) -> Facts:
        """Return the play as numbers, strings, lists and objects."""
        return {
            "steps": [step.facts() for step in self.steps],
            "reports": [report.to_dict() for report in self.reports],
            "repeated": self.repeated,
        }


@frozen
class Difference:
    """A step that came out differently.

    Attributes:
        number: Number of the step, from 1.
        text: The action, for people.
        without: Outcome without the symbol.
        with_it: Outcome with it.
    """

    number: int
    text: str
    without: str
    with_it: str


@frozen
class Performance:
    """Both plays of a scene on one machine.

    Attributes:
        scene: The scene.
        arch: Name of the architecture.
        cpus: Number of CPUs.
        without: The play without the symbol.
        complete: The play with it.
        difference: The steps that came out differently.
        why: Why nothing goes wrong here, or "" if there is a difference.
    """

    scene: Scene
    arch: str
    cpus: int
    without: Play
    complete: Play
    difference: tuple[Difference, ...]
    why: str

    def facts(self) -> Facts:
        """Return the object that `SCHEMA` describes."""
        return SCHEMA.facts(
            scene=self.scene.name,
            title=self.scene.title,
            symbol=self.scene.symbol,
            arch=self.arch,
            cpus=self.cpus,
            without=self.without.facts(),
            **{"with": self.complete.facts()},
            difference=[
                {"step": d.number, "text": d.text, "without": d.without, "with": d.with_it}
                for d in self.difference
            ],
            why=self.why,
        )


@frozen
class SceneList:
    """All scenes.

    Attributes:
        scenes: The scenes, in the order of the list.
    """

    scenes: tuple[Scene, ...]

    def facts(self) -> Facts:
        """Return the object that `LIST_SCHEMA` describes."""
        return LIST_SCHEMA.facts(
            scenes=[{"name": scene.name, "title": scene.title, "symbol": scene.symbol} for scene in self.scenes]
        )


def place_text(physical: int | None) -> str | None:
    """Write a physical address of a view in hex, -1 as "absent", and leave None as it is."""
    return None if physical is None else "absent" if physical < 0 else hex(physical)
