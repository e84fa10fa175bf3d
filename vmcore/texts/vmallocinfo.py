"""Read ``/proc/vmallocinfo``."""

import re
from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from typing import Final

from attrs import frozen

from vmcore.errors import TraceError
from vmcore.texts.lines import Source, read_lines, source_name

#: Words of s_show() and vmalloc_info_show() in mm/vmalloc.c, in their order; a line has any of them.
KINDS: Final = ("ioremap", "sparse", "vmalloc", "vmap", "user", "dma-coherent", "vpages")
#: Words that stand alone: areas without a vm_struct.
BARE_KINDS: Final = ("unpurged vm_area", "vm_map_ram")

_KIND: Final = "|".join(KINDS)
# Numbers of an unsigned long: an area is no larger than its address space, and has fewer pages than bytes.
_HEX: Final = "[0-9a-f]{1,16}"
_DECIMAL: Final = "[0-9]{1,19}"
_LINE: Final = re.compile(
    rf"0x(?P<start>{_HEX})-0x(?P<end>{_HEX}) +(?P<size>{_DECIMAL})"
    rf"(?: (?P<bare>{'|'.join(BARE_KINDS)})|"
    rf"(?: (?!(?:pages=|phys=|N[0-9]+=|(?:{_KIND})\b))(?P<caller>\S+(?: \[[^]]+\])?))?"
    rf"(?: pages=(?P<pages>{_DECIMAL}))?(?: phys=(?:0x)?(?P<phys>{_HEX}))?"
    rf"(?P<kinds>(?: (?:{_KIND}))*)(?P<nodes>(?: N{_DECIMAL}={_DECIMAL})*))[ \t\r]*\n?"
)
_EXPECTED: Final = "expected '0xSTART-0xEND SIZE CALLER [pages=N] [phys=X] KIND...'"
_TORN: Final = "the line is torn or was edited: read /proc/vmallocinfo again"
_HIDDEN: Final = "the kernel hides addresses: read it as root, or boot with no_hash_pointers"


@frozen
class VmallocinfoEntry:
    """Hold one line of ``/proc/vmallocinfo``.

    Attributes:
        start: First address.
        end: First address behind the area and its guard page.
        size: Bytes, ``end - start``.
        caller: ``symbol+offset/length [module]``, empty if unknown.
        kinds: Some of KINDS, or one of BARE_KINDS; a mere reservation has none.
        pages: Pages that the area owns.
        phys: Physical address of the first byte (ioremap), or None.
        nodes: ``(node, pages)`` for each NUMA node.
    """

    start: int
    end: int
    size: int
    caller: str
    kinds: frozenset[str]
    pages: int
    phys: int | None
    nodes: tuple[tuple[int, int], ...]


def read_vmallocinfo(source: Source, name: str | None = None) -> list[VmallocinfoEntry]:
    """Read the text of ``/proc/vmallocinfo`` (mm/vmalloc.c vmalloc_info_show).

    Args:
        source: Path, ``-`` for stdin, or an open binary stream; plain, gzip or xz.
        name: Name of the source in messages; by default its own.

    Returns:
        An entry per line, in the order of the file. Up to Linux 6.8 this is the order of addresses, and from 6.9
        on that of vmap nodes.

    Raises:
        TraceError: A line does not have the kernel's format, or the kernel has hidden the addresses.
    """
    file = source_name(source) if name is None else name
    with closing(read_lines(source, file)) as lines:
        entries = list(_entries(file, lines))
    if not entries:
        raise TraceError(file, None, "the file is empty, expected the text of /proc/vmallocinfo")
    return entries


def _entries(file: str, lines: Iterator[bytes]) -> Iterator[VmallocinfoEntry]:
    for number, line in enumerate(lines, 1):
        text = line.decode("ascii", "replace")
        match = _LINE.fullmatch(text)
        if match is None:
            raise TraceError(file, number, f"found {text.strip()[:60]!r}, {_EXPECTED}; {_TORN}")
        entry = _entry(match)
        if text[-1] != "\n" and not _complete(entry):
            raise TraceError(file, number, f"found {text.strip()[:60]!r}, {_EXPECTED}; {_TORN}")
        if entry.end - entry.start != entry.size or not entry.size:
            found = f"{entry.start:#x}-{entry.end:#x} with size {entry.size}"
            raise TraceError(file, number, f"found {found}, expected end - start = size > 0; {_HIDDEN}")
        yield entry


def _complete(entry: VmallocinfoEntry) -> bool:
    """Return whether a line without its newline is complete: it ends with a word or with all its nodes."""
    if entry.nodes:
        return sum(pages for _, pages in entry.nodes) == entry.pages
    return bool(entry.kinds)


def _entry(match: re.Match[str]) -> VmallocinfoEntry:
    start, end, size = int(match["start"], 16), int(match["end"], 16), int(match["size"])
    if not end and start + size == 1 << 4 * len(match["end"]):  # a pointer behind the last byte there is
        end = start + size
    return VmallocinfoEntry(
        start=start,
        end=end,
        size=size,
        caller=match["caller"] or "",
        kinds=_kinds(match["bare"], match["kinds"]),
        pages=int(match["pages"] or 0),
        phys=int(match["phys"], 16) if match["phys"] else None,
        nodes=_nodes(match["nodes"] or ""),
    )


@lru_cache(1 << 10)
def _kinds(bare: str | None, words: str | None) -> frozenset[str]:
    """Return the kinds of an area. Areas share one set, because a set would take most of an entry's memory."""
    return frozenset([bare] if bare else (words or "").split())


@lru_cache(1 << 10)
def _nodes(words: str) -> tuple[tuple[int, int], ...]:
    nodes = (word.split("=") for word in words.split())
    return tuple((int(node[1:]), int(pages)) for node, pages in nodes)
