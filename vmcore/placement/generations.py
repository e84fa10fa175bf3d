"""The built-in placement generations, and the generation of a kernel version."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vmcore.placement import busytree, freeblocks, pools, vmlist
from vmcore.placement.seam import Generation

#: oldest first
BUILT_IN = (*vmlist.GENERATIONS, *busytree.GENERATIONS, *freeblocks.GENERATIONS, *pools.GENERATIONS)


def version(text: str) -> tuple[int, ...] | None:
    """Read a kernel version: its leading numbers, or None if it has none.

    For example, "6.12", "v6.1-rc3" and "5.10.0-28-amd64" are (6, 12), (6, 1) and (5, 10, 0).
    """
    found = re.match(r"v?(\d{1,4}(?:\.\d{1,6}){1,3})(?![\d.])", text.strip())
    return tuple(map(int, found[1].split("."))) if found else None


def generation_of(kernel: str, generations: Iterable[Generation] = BUILT_IN) -> Generation | None:
    """Return the generation of a kernel: that of its name, else the newest that is not newer than the kernel.

    Kernels older than the oldest generation have that one.

    Args:
        kernel: a version, for example "6.12.107", or the name of a generation.
        generations: those to choose from. Names that are no versions are found by name only.

    Returns:
        The generation, or None if ``kernel`` is neither a name nor a version.
    """
    known = list(generations)
    for generation in known:
        if generation.name == kernel:
            return generation
    wanted = version(kernel)
    dated = sorted(
        (number, g.name, g) for g in known if (number := version(g.name)) is not None and g.name[:1].isdigit()
    )
    if wanted is None or not dated:
        return None
    older = [g for number, _, g in dated if number <= wanted]
    return older[-1] if older else dated[0][2]
