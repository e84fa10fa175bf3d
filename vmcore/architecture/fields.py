"""Check the types of a record's fields, and convert their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from attrs import Attribute, Converter

from vmcore.errors import ArchitectureError

Flags = tuple[tuple[str, int], ...]
Pairs = tuple[tuple[int, int], ...]
Lines = tuple[tuple[str, tuple[str, ...]], ...]


@cache
def _hints(record: type) -> dict[str, Any]:
    return get_type_hints(record)


def _fits(value: object, kind: Any) -> bool:
    """Return whether a value has the type of an annotation."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_fits(value, choice) for choice in args)
    if origin is not tuple:
        return isinstance(value, origin or kind)
    if not isinstance(value, tuple):
        return False
    if args[-1] is Ellipsis:
        return all(_fits(item, args[0]) for item in value)
    return len(value) == len(args) and all(map(_fits, value, args))


def _convert(inner: Callable[[Any], Any] | None, value: Any, record: Any, into: Attribute[Any]) -> Any:
    """Convert a field of a record. Refuse a value of another type before any code computes with it."""
    name = getattr(record, "name", None)
    kind = type(record).__name__.lower()
    subject = kind if name is None else name if kind == "architecture" else f"{kind} {name!r}"
    try:
        made = value if inner is None else inner(value)
    except (TypeError, ValueError, AttributeError) as error:
        raise ArchitectureError(subject, into.name, repr(value), str(into.type)) from error
    if not _fits(made, _hints(record.__class__)[into.name]):
        raise ArchitectureError(subject, into.name, repr(value), str(into.type))
    return made


def typed(cls: type, fields: list[Attribute[Any]]) -> list[Attribute[Any]]:
    """Make every field of a class check its type, in order. A default then sees only values of the right type."""

    def checked(field: Attribute[Any]) -> Attribute[Any]:
        def convert(value: Any, record: Any, into: Attribute[Any]) -> Any:
            return _convert(inner, value, record, into)

        inner: Any = field.converter
        return field.evolve(converter=Converter(convert, takes_self=True, takes_field=True))

    return [checked(field) for field in fields]


def as_flags(value: Mapping[str, int] | Iterable[tuple[str, int]]) -> Flags:
    """Convert a mapping to a tuple of (name, bits) pairs."""
    return tuple(value.items() if isinstance(value, Mapping) else value)


def as_pairs(value: Iterable[Iterable[int]]) -> Pairs:
    """Convert (mask, value) pairs to a tuple of tuples."""
    return tuple((mask, wanted) for mask, wanted in value)


def as_ints(value: Iterable[int]) -> tuple[int, ...]:
    """Convert integers to a tuple."""
    return tuple(value)


def as_names(value: Iterable[str]) -> tuple[str, ...]:
    """Convert names to a tuple."""
    return tuple(value)


def as_lines(value: Mapping[str, Iterable[str]] | Iterable[tuple[str, Iterable[str]]]) -> Lines:
    """Convert a mapping to a tuple of (key, values) pairs."""
    pairs = value.items() if isinstance(value, Mapping) else value
    return tuple((key, tuple(values)) for key, values in pairs)
