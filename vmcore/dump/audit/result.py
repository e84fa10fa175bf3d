"""The result of an audit, and the keys of its JSON object."""

from __future__ import annotations

from typing import Final

from attrs import frozen

from vmcore.dump.audit.windows import AuditWindow
from vmcore.dump.rooted import DUMP_KEYS, RootedDump
from vmcore.facts import Facts, Key, Schema, Shape
from vmcore.texts.vmallocinfo import VmallocinfoEntry

#: The limit of every audit: only in a window must each mapping have an area.
OUTSIDE: Final = "mappings outside the windows were not looked at; --range START-END looks there instead"

_WINDOW = Shape(
    "audited window",
    (
        Key("start", "string", "First address.", "address"),
        Key("last", "string", "Last address.", "address"),
        Key("how", "string", "How it is known, for people."),
    ),
)
_FINDING = Shape(
    "finding",
    (
        Key("start", "string", "First address concerned.", "address"),
        Key("last", "string", "Last address concerned.", "address"),
        Key("caller", "string or null", "Caller of the area; null: there is no area."),
        Key("kinds", "list of string or null", "Kinds of the area; null: there is no area."),
        Key("problem", "string", '"pages", "guard", "count", "physical", "overlap", "stray" or "not in the dump"; '
            "see docs/dumps.md."),
        Key("found", "string", "The irregularity, for people."),
        Key("why", "string or null", "Why it is as it should be; null: it is odd."),
    ),
)  # fmt: skip
SCHEMA: Final = Schema(
    "vmcore.audit/1",
    "vmcore audit",
    "The areas of /proc/vmallocinfo, compared with the page tables in a dump.",
    (
        *DUMP_KEYS,
        Key("windows", "list of object", "Where mappings without an area were looked for.", shape=_WINDOW),
        Key("outside", "string", "The limit of the audit, for people."),
        Key("areas", "number", "Areas checked."),
        Key("findings", "list of object", "Irregularities, in order of address.", shape=_FINDING),
    ),
)


@frozen
class Finding:
    """An irregularity of an area, or a mapping without one.

    Attributes:
        start: First address concerned.
        last: Last address concerned.
        area: The area; None if there is none.
        problem: "pages", "guard", "count", "physical", "overlap", "stray" or "not in the dump".
        found: The irregularity, for people.
        why: Why it is as it should be; None: it is odd.
    """

    start: int
    last: int
    area: VmallocinfoEntry | None
    problem: str
    found: str
    why: str | None = None

    def facts(self) -> Facts:
        """Return the finding with addresses in hex."""
        return {
            "start": hex(self.start),
            "last": hex(self.last),
            "caller": self.area.caller if self.area else None,
            "kinds": sorted(self.area.kinds) if self.area else None,
            "problem": self.problem,
            "found": self.found,
            "why": self.why,
        }


@frozen
class Audit:
    """The result of an audit of page tables.

    Attributes:
        areas: Number of areas checked.
        windows: Where mappings without an area were looked for.
        findings: Irregularities, in order of address.
        partial: Why not everything could be checked.
    """

    areas: int
    windows: tuple[AuditWindow, ...]
    findings: tuple[Finding, ...]
    partial: tuple[str, ...]

    @property
    def odd(self) -> tuple[Finding, ...]:
        """Findings without an explanation."""
        return tuple(f for f in self.findings if f.why is None)

    @property
    def explained(self) -> tuple[Finding, ...]:
        """Irregularities that are as they should be."""
        return tuple(f for f in self.findings if f.why is not None)


@frozen(eq=False)
class DumpAudit:
    """The result of an audit of a dump.

    Attributes:
        source: The dump and its root.
        audit: The result.
    """

    source: RootedDump
    audit: Audit

    def facts(self) -> Facts:
        """Return the object that `SCHEMA` describes."""
        audit = self.audit
        return SCHEMA.facts(
            **self.source.facts(audit.partial),
            windows=[{"start": hex(w.start), "last": hex(w.last), "how": w.how} for w in audit.windows],
            outside=OUTSIDE,
            areas=audit.areas,
            findings=[finding.facts() for finding in audit.findings],
        )
