"""JSON objects, described key by key.

A job returns a frozen result, and ``result.facts()`` is the object that a command writes with ``--json``. A
`Schema` beside the result describes this object: the name, type, unit and meaning of every key. docs/json.md is
made from the schemas, and a test compares them with real output.

All objects follow the same rules. The first key is ``schema``, for example "vmcore.replay/1". Its number grows
when a key is removed or changes its meaning. Sizes are numbers of bytes. Addresses, words and masks are strings in
hexadecimal ("0xc0000000"), because many JSON readers cannot hold 64 bits.
"""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

Facts = dict[str, Any]


@frozen
class Key:
    """One key of a JSON object.

    Attributes:
        name: The key.
        type: "string", "number", "boolean" or "object". "list of T" and "map of T" have values of a type T. The
            keys of a map are data, for example names of zones. " or null" at the end allows null.
        meaning: One sentence for readers.
        unit: Unit of a number ("bytes", "line") or form of a string ("address", "hex"); "" if there is none.
        shape: Keys of the objects in ``type``; None if the type has no object.
        optional: Whether the key may be absent.
    """

    name: str
    type: str
    meaning: str
    unit: str = ""
    shape: Shape | None = field(default=None, repr=False)
    optional: bool = False


@frozen
class Shape:
    """Describe a JSON object that is part of another.

    Attributes:
        name: Heading in docs/json.md.
        keys: Its keys, in the order in which they are written.
    """

    name: str
    keys: tuple[Key, ...]


@frozen
class Schema:
    """Describe the whole object that one job gives.

    Attributes:
        name: Value of the key "schema".
        command: The command that writes it.
        meaning: One sentence about the object.
        keys: Its keys, in the order in which they are written, without "schema".
    """

    name: str
    command: str
    meaning: str
    keys: tuple[Key, ...]

    def facts(self, **values: Any) -> Facts:
        """Return an object whose first key is the name of its schema."""
        return {"schema": self.name, **values}


# ---- a range of addresses, which several jobs have

RANGE = Shape(
    "range of addresses",
    (
        Key("start", "string", "First address.", "address"),
        Key("end", "string", "End as the kernel has it: one past the last byte; on some architectures the last "
            "byte.", "address"),
        Key("size", "number", "Difference of both.", "bytes"),
    ),
)  # fmt: skip


def range_facts(start: int, end: int) -> Facts:
    """Return the object that `RANGE` describes.

    Args:
        start: First address, bytes.
        end: End as the kernel defines it, bytes.
    """
    return {"start": hex(start), "end": hex(end), "size": end - start}
