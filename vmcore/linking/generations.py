"""A plugin of the core that brings the built-in placement generations."""

from __future__ import annotations

from collections.abc import Iterable

from vmcore.hookspecs import API_VERSION, hookimpl
from vmcore.placement.generations import BUILT_IN
from vmcore.placement.seam import Generation

vmcore_api = API_VERSION


@hookimpl
def vmcore_placements() -> Iterable[Generation]:
    """Return the generations of the kernels 2.6.23 and later."""
    return BUILT_IN
