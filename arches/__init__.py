"""The built-in architectures, imported as ``vmcore_arches``. They are a plugin like any other."""

from __future__ import annotations

from vmcore.architecture import Architecture
from vmcore.hookspecs import hookimpl

from .arm.armv5 import ARMV5
from .arm.armv7 import ARMV7, ARMV7_HIGHMEM
from .x86.i386 import I386, I386_HIGHMEM
from .x86.i386_pae import I386_PAE, I386_PAE_HIGHMEM
from .x86.x86_64 import X86_64

vmcore_api = (1, 3)


@hookimpl
def vmcore_architectures() -> tuple[Architecture, ...]:
    """Return the eight built-in records."""
    return I386, I386_HIGHMEM, I386_PAE, I386_PAE_HIGHMEM, X86_64, ARMV5, ARMV7, ARMV7_HIGHMEM
