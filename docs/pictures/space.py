"""Draw a full vmalloc space: every page of the window at the moment at which an allocation no longer fits.

A trace that comes with vmcore is replayed until its first failure. ``python docs/pictures/space.py`` writes
``space.svg`` beside this file. One row of the picture is 1 MiB, one cell is one page.
"""

import io
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vmcore import Kernel, samples
from vmcore.replay import replay
from vmcore.texts.trace import read_trace
from vmcore.texts.vmallocinfo import read_vmallocinfo
from vmcore.units import format_size

SAMPLE, ARCH = "test_vmalloc-x86_64", "i386-highmem"
PICTURE = Path(__file__).with_name("space.svg")

ROW = 1 << 20  # bytes of address space in one row
CELL, LINE = 4, 3  # width of a page and height of a row, in pixels
LEFT, TOP, RIGHT = 110, 84, 20
ZOOMED, SQUARE = 32, 32  # pages in the strip below, and the size of each in pixels

#: The kinds of a page, with colour and description. An area's colour says how many pages it has.
FREE, GUARD, ONE, FEW, MANY = range(5)
KINDS = {
    ONE: ("#1f6f8b", "page of an area of 1 page"),
    FEW: ("#3fa7a0", "of 2 to 15 pages"),
    MANY: ("#a9cf8f", "of 16 pages or more"),
    GUARD: ("#dfe3e8", "guard page, never mapped"),
    FREE: ("#e4572e", "free"),
}


def page_kinds(kernel: Kernel) -> NDArray[np.int8]:
    """Return the kind of every page from VMALLOC_START to VMALLOC_END."""
    start, page = kernel.layout.vmalloc_start, kernel.arch.page_size
    kinds = np.full((kernel.layout.vmalloc_end - start) // page, FREE, np.int8)
    for area in read_vmallocinfo(io.BytesIO(kernel.vmallocinfo().encode())):
        first, last = (area.start - start) // page, (area.end - start) // page - 1
        pages = last - first
        kinds[first:last] = ONE if pages == 1 else FEW if pages < 16 else MANY
        kinds[last] = GUARD
    return kinds


def strokes(kinds: NDArray[np.int8], kind: int, columns: int) -> str:
    """Return the path of all cells of one kind, in cells: a horizontal stroke for each run within a row."""
    parts = []
    for row, at in enumerate(range(0, len(kinds), columns)):
        line = np.concatenate([[False], kinds[at : at + columns] == kind, [False]])
        begin, end = np.flatnonzero(line[1:] & ~line[:-1]), np.flatnonzero(line[:-1] & ~line[1:])
        pen = 0
        for n, (first, last) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
            parts.append(f"m{first - pen} 0" if n else f"M{first} {row}")
            parts.append(f"h{last - first}")
            pen = last
    return "".join(parts)


def text(x: float, y: float, words: str, more: str = "") -> str:
    """Return one line of text whose baseline begins at a point."""
    return f'<text x="{x:g}" y="{y:g}"{more}>{words}</text>'


def strip(kinds: NDArray[np.int8], x: int, y: int) -> list[str]:
    """Draw consecutive pages large, with their runs named below."""
    drawn, at = [], 0
    for kind, run in groupby(kinds.tolist()):
        count = len(list(run))
        colour, _ = KINDS[kind]
        size = f'width="{SQUARE - 2}" height="{SQUARE - 2}"'
        drawn += [f'<rect x="{x + SQUARE * (at + n)}" y="{y}" {size} fill="{colour}"/>' for n in range(count)]
        word = {FREE: "free", GUARD: "guard"}.get(kind, "area")
        middle = x + SQUARE * (at + count / 2) - 1
        drawn.append(text(middle, y + SQUARE + 10, word, ' text-anchor="middle" font-size="10"'))
        at += count
    return drawn


def hole_near_the_middle(kinds: NDArray[np.int8]) -> int:
    """Return the first page of a strip that has a free page in its middle."""
    free = np.flatnonzero(kinds == FREE)
    return int(free[len(free) // 2]) - ZOOMED // 2


def draw() -> str:
    """Replay the sample until its first failure and return the picture."""
    with samples.open_sample(SAMPLE) as source:
        trace = read_trace(source, SAMPLE)
    with Kernel(ARCH) as kernel:
        report = replay(trace, kernel, stop=True)
        kinds, layout, page = page_kinds(kernel), kernel.layout, kernel.arch.page_size
    (failure,) = report.failures
    columns = ROW // page
    rows = -(-len(kinds) // columns)
    width, bottom = LEFT + columns * CELL + RIGHT, TOP + rows * LINE
    begin = hole_near_the_middle(kinds)
    height = bottom + 132
    asked, free, hole = map(format_size, (failure.size - page, failure.free, failure.largest_hole))
    subtitle = (
        f"{failure.areas:,} areas. Line {failure.line:,} of the trace asks for {asked} and a guard page. "
        f"{free} are free, the largest hole has {hole}."
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13" fill="#24292f">',
        f"<title>The vmalloc space of {ARCH}, full</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        text(LEFT, 28, f"A full vmalloc space: {format_size(layout.vmalloc.size)} on {ARCH}", ' font-size="19"'),
        text(LEFT, 48, subtitle),
    ]
    x = LEFT
    for colour, words in KINDS.values():
        parts.append(f'<rect x="{x}" y="62" width="12" height="12" fill="{colour}"/>')
        parts.append(text(x + 17, 72, words, ' font-size="12"'))
        x += 40 + 7 * len(words)
    for row in range(0, rows, 16):
        address = layout.vmalloc_start + row * ROW
        parts.append(
            text(LEFT - 8, TOP + row * LINE + 6, f"{address:#010x}", ' text-anchor="end" font-family="monospace"')
        )
    parts.append(
        f'<g fill="none" stroke-width=".9" transform="translate({LEFT} {TOP + LINE / 2:g}) scale({CELL} {LINE})">'
    )
    # guard pages are the ground on which all others are drawn
    kinds_drawn = {GUARD: np.full_like(kinds, GUARD)} | {kind: kinds for kind in KINDS if kind != GUARD}
    parts += [
        f'<path stroke="{KINDS[kind][0]}" d="{strokes(pages, kind, columns)}"/>'
        for kind, pages in kinds_drawn.items()
    ]
    parts.append("</g>")
    address = layout.vmalloc_start + begin * page
    parts.append(
        text(
            LEFT,
            bottom + 36,
            f"{ZOOMED} pages from {address:#x}, enlarged: a hole of one page is no room for "
            "a page and its guard page",
        )
    )
    parts += strip(kinds[begin : begin + ZOOMED], LEFT, bottom + 48)
    parts.append(text(LEFT, bottom + 116, f"vmcore replay sample:{SAMPLE} --arch {ARCH} --stop",
                      ' font-family="monospace" font-size="12"'))  # fmt: skip
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(), "utf-8")
