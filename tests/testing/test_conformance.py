"""The check of the seam: it passes for good generations, and finds each mistake."""

from collections.abc import Iterable

import pytest

from vmcore.hookspecs import hookimpl
from vmcore.linking import registry
from vmcore.placement.freeblocks import FreeBlocks
from vmcore.placement.generations import BUILT_IN
from vmcore.placement.seam import Generation, Purged
from vmcore.testing.conformance import check_generation


class TopDown:
    """A generation that nobody else has: the highest hole, and a freed area is free at once."""

    lazy_pages = 0

    def __init__(self, space):
        self.space = space
        self.seed(space.early, ())

    def seed(self, busy, lazy):
        self.busy = dict(busy)

    def attempt(self, size, align, start, end, cpu=0):
        page = self.space.page_size
        align = max(align, page)
        at = end - size & -align
        for first, stop in sorted(self.busy.items(), reverse=True):
            if at < stop and first < at + size:
                at = first - size & -align
        if at < start:
            return None
        self.busy[at] = at + size
        return at

    def release(self, address, size, cpu=0):
        del self.busy[address]
        return False

    def purge(self, *, everything=False):
        return Purged(0, 0, 0)

    def percpu(self, offsets, sizes, align):
        size = max(o + s for o, s in zip(offsets, sizes, strict=True))
        base = self.attempt(size, align, self.space.start, self.space.end)
        if base is not None:
            del self.busy[base]
            self.busy.update({base + o: base + o + s for o, s in zip(offsets, sizes, strict=True)})
        return base

    def take(self, address, size, cpu=0):
        held = [a for a, b in self.busy.items() if a < address + size and address < b]
        for a in held:
            del self.busy[a]
        self.busy[address] = address + size
        return not held

    def _holes(self, start, end):
        for first, stop in sorted(self.busy.items()):
            yield max(0, min(first, end) - start)
            start = max(start, stop)
        yield max(0, end - start)

    def free_bytes(self, start, end):
        return sum(self._holes(start, end))

    def largest_hole(self, start, end):
        return max(self._holes(start, end))

    def check(self):
        pass


TOP_DOWN = Generation("top-down", TopDown, "the highest hole; a freed area is free at once")


class Plugin:
    """Brings the generation as a plugin does."""

    vmcore_api = (1, 3)

    @staticmethod
    @hookimpl
    def vmcore_placements() -> Iterable[Generation]:
        return [TOP_DOWN]


@pytest.mark.parametrize("generation", BUILT_IN, ids=lambda generation: generation.name)
def test_the_built_in_generations(generation):
    check_generation(generation, late_end=generation.name == "2.6.23")


def test_a_generation_from_outside():
    check_generation(TOP_DOWN)
    installed = registry.load()
    installed.add(Plugin, "top")
    assert installed.placement("top-down") is TOP_DOWN
    assert installed.placement("6.12").name == "6.9"


class Forgetful(FreeBlocks):
    """Forgets that an area is taken."""

    def attempt(self, size, align, start, end, cpu=0):
        at = super().attempt(size, align, start, end, cpu)
        if at is not None:
            self.blocks.give(at, at + size)
        return at


class Unaligned(FreeBlocks):
    """Ignores the alignment."""

    def attempt(self, size, align, start, end, cpu=0):
        return super().attempt(size, 1, start, end, cpu)


class Outside(FreeBlocks):
    """Does not look at the end of the window."""

    def attempt(self, size, align, start, end, cpu=0):
        return super().attempt(size, align, start, self.space.mask, cpu)


class Leaking(FreeBlocks):
    """Loses the lowest of the lazily freed areas at a purge."""

    def purge(self, *, everything=False):
        done = super().purge(everything=everything)
        if done.number:
            self.blocks.carve(done.start, done.start + self.space.page_size)
        return done


class NeverDrains(FreeBlocks):
    """Never asks for a drain."""

    def release(self, address, size, cpu=0):
        super().release(address, size, cpu)
        return False


class Miscounts(FreeBlocks):
    """Counts one lazily freed page for each area."""

    def release(self, address, size, cpu=0):
        return super().release(address, self.space.page_size, cpu)


class Hoards(FreeBlocks):
    """Says that lazily freed areas are free."""

    def free_bytes(self, start, end):
        return super().free_bytes(start, end) + self.lazy_pages * self.space.page_size


class Careless(FreeBlocks):
    """Says that a known address was free."""

    def take(self, address, size, cpu=0):
        super().take(address, size, cpu)
        return True


class Unseeded(FreeBlocks):
    """Ignores the areas of a kernel that has run."""

    def seed(self, busy, lazy):
        super().seed((), ())


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (Forgetful, "overlaps an area in use"),
        (Unaligned, "is not aligned"),
        (Outside, "lies outside the window"),
        (Leaking, "of the empty window|free blocks"),
        (NeverDrains, "release\\(\\) answered False, expected"),
        (Miscounts, "lazy_pages is"),
        (Hoards, "free_bytes\\(\\) is"),
        (Careless, "answered that it was free"),
        (Unseeded, "overlaps an area in use"),
    ],
)
def test_a_mistake_is_found(kind, rule):
    with pytest.raises(AssertionError, match=rule) as caught:
        check_generation(Generation("mistaken", kind, "wrong"))
    assert str(caught.value).startswith("generation mistaken, ")
