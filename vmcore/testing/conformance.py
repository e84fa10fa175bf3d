"""Check that a placement generation keeps the rules of the seam.

A generation may choose any free address, so the check does not know the right one. It compares each answer with a
plain list of the areas in use. A generation of your own is checked by::

    from vmcore.testing.conformance import check_generation

    check_generation(MY_GENERATION)
"""

from __future__ import annotations

from random import Random

from attrs import define, field

from vmcore.placement.seam import Generation, Placement, Space, Span
from vmcore.wording import counted

_SPACES = (
    Space(32, 4096, 0xD0000000, 0xD0400000),
    Space(32, 4096, 0xD0000000, 0xD0100000, early=((0xD0000000, 0xD0003000),)),
    Space(64, 4096, 0xFFFFC90000000000, 0xFFFFC9003FFFFFFF, cpus=4),
    Space(64, 65536, 0xFFFF800080000000, 0xFFFF800082000000, cpus=2),
)
_MODULES = 8 << 20  # bytes of a second window in front of the first


def check_generation(
    generation: Generation, operations: int = 2000, seed: int = 1, late_end: bool = False
) -> None:
    """Run random operations on several machines, and check every answer.

    Args:
        generation: the rules to check.
        operations: on each machine.
        seed: of the random numbers.
        late_end: allow areas behind the end of the window. Only 2.6.23 places them there.

    Raises:
        AssertionError: A rule of `vmcore.placement.seam.Placement` is broken. The message names the generation,
            the machine, the number of the operation and the rule.
    """
    for number, space in enumerate(_SPACES):
        run = _Run(generation.name, space, generation.make(space), Random(seed * 100 + number), late_end)
        run.busy = dict(space.early)
        for _ in range(operations):
            run.step()
        run.finish()


@define
class _Run:
    """One machine, with a list of its areas beside its placement."""

    name: str
    space: Space
    placement: Placement
    random: Random
    late_end: bool
    busy: dict[int, int] = field(factory=dict)  # first address to end
    lazy: dict[int, int] = field(factory=dict)
    done: int = 0

    def hold(self, condition: bool, rule: str) -> None:
        if not condition:
            space = f"{self.space.word_bits} bit, {self.space.page_size} byte pages, {self.space.cpus} CPUs"
            raise AssertionError(f"generation {self.name}, {space}, operation {self.done}: {rule}")

    def step(self) -> None:
        """Run one operation and check it."""
        self.done += 1
        act = self.random.choices(
            (self.allocate, self.free, self.purge, self.percpu, self.measure, self.take), (50, 35, 3, 2, 5, 1)
        )[0]
        act()
        self.count()
        if self.done % 100 == 0:
            self.placement.check()

    def free_of(self, start: int, end: int, what: str) -> None:
        """Hold that no area has a part of ``[start, end)``."""
        for spans, name in ((self.busy, "an area in use"), (self.lazy, "a lazily freed area")):
            other = next(((a, b) for a, b in spans.items() if a < end and start < b), None)
            self.hold(other is None, f"{what} at {start:#x} to {end:#x} overlaps {name}, {other}")

    def allocate(self) -> None:
        """Request an area in one of two windows, with the purge and the second try of a kernel."""
        page, random = self.space.page_size, self.random
        size = page * random.choice((1, 2, 2, 3, 5, 9, 17))
        align = random.choice((1, 1, page, 4 * page, 16 * page))
        start, end = self.space.start, self.space.end
        if random.random() < 0.2:
            start, end = start - _MODULES, start
        cpu = random.randrange(self.space.cpus)
        at = self.placement.attempt(size, align, start, end, cpu)
        if at is None:
            self.purge(everything=True)
            at = self.placement.attempt(size, align, start, end, cpu)
        if at is None:
            return
        inside = start <= at and (self.late_end or at + size <= end)
        self.hold(inside, f"{at:#x} lies outside the window {start:#x} to {end:#x}")
        self.hold(not at & align - 1 and not at & page - 1, f"{at:#x} is not aligned to {align:#x}")
        self.free_of(at, at + size, "an area")
        self.busy[at] = at + size

    def free(self) -> None:
        """Free one area."""
        if self.busy:
            self.release(self.random.choice(list(self.busy)))

    def release(self, at: int) -> None:
        """Free an area, and drain if the placement asks for it."""
        end = self.busy.pop(at)
        before = self.placement.lazy_pages
        drain = self.placement.release(at, end - at, self.random.randrange(self.space.cpus))
        if self.placement.lazy_pages > before:
            self.lazy[at] = end
        most = self.space.lazy_max
        self.hold(
            drain == (self.placement.lazy_pages > most),
            f"release() answered {drain}, expected a drain above {counted(most, 'page')}",
        )
        if drain:
            self.purge()

    def purge(self, everything: bool = False) -> None:
        """Purge, and compare the bounds with the areas that were lazily freed."""
        purged = self.placement.purge(everything=everything)
        self.hold((purged.number == 0) == (not self.lazy), f"{purged} of {len(self.lazy)} lazily freed areas")
        if self.lazy:
            bounds = min(self.lazy), max(self.lazy.values())
            self.hold(purged[1:] == bounds, f"{purged} of areas from {bounds[0]:#x} to {bounds[1]:#x}")
        self.lazy.clear()

    def percpu(self) -> None:
        """Request a percpu chunk of two areas."""
        page = self.space.page_size
        gap, sizes = page * self.random.choice((4, 8)), [2 * page, 3 * page]
        base = self.placement.percpu([0, gap], sizes, page)
        if base is None:
            return
        for at, size in ((base, sizes[0]), (base + gap, sizes[1])):
            inside = self.space.start <= at and (self.late_end or at + size <= self.space.end + 1)
            self.hold(inside, f"a percpu area at {at:#x} lies outside the window")
            self.free_of(at, at + size, "a percpu area")
            self.busy[at] = at + size

    def take(self) -> None:
        """Take a known address that is free, and one that is in use."""
        if not self.busy:
            return
        at = self.random.choice(list(self.busy))
        end = self.busy[at]
        self.hold(
            not self.placement.take(at, end - at), f"take() of an area in use at {at:#x} answered that it was free"
        )

    def measure(self) -> None:
        """Compare the measures of the window with the list."""
        start, end = self.space.start, self.space.end & -self.space.page_size
        free, largest = self.placement.free_bytes(start, end), self.placement.largest_hole(start, end)
        areas = [*self.busy.items(), *self.lazy.items()]
        taken = sum(min(b, end) - a for a, b in areas if start <= a < end)
        self.hold(0 <= free <= end - start - taken, f"free_bytes() is {free:#x}, {taken:#x} bytes are taken")
        self.hold(0 <= largest <= free, f"largest_hole() is {largest:#x} of {free:#x} free bytes")

    def count(self) -> None:
        """Compare the number of lazily freed pages."""
        pages = sum(end - at for at, end in self.lazy.items()) // self.space.page_size
        self.hold(
            self.placement.lazy_pages == pages, f"lazy_pages is {self.placement.lazy_pages}, freed were {pages}"
        )

    def finish(self) -> None:
        """Free everything. The whole window is free then. Begin again with the areas of a kernel that has run."""
        for at in list(self.busy):
            self.release(at)
        self.purge(everything=True)
        self.placement.check()
        start, end = self.space.start, self.space.end & -self.space.page_size
        for found, name in (
            (self.placement.free_bytes(start, end), "free_bytes()"),
            (self.placement.largest_hole(start, end), "largest_hole()"),
        ):
            self.hold(found == end - start, f"{name} is {found:#x} of the empty window, expected {end - start:#x}")
        self._drain()
        self._seed(start)

    def _drain(self) -> None:
        """Free one area of more pages than may be lazily freed, if the window has room for it."""
        size = (self.space.lazy_max + 1) * self.space.page_size
        if size < self.space.end - self.space.start:
            at = self.placement.attempt(size, 1, self.space.start, self.space.end)
            self.hold(at is not None, f"no room for {size:#x} bytes in the empty window")
            assert at is not None
            self.busy[at] = at + size
            self.release(at)

    def _seed(self, start: int) -> None:
        page = self.space.page_size
        busy: list[Span] = [(start + page, start + 3 * page), (start + 8 * page, start + 9 * page)]
        lazy: list[Span] = [(start + 4 * page, start + 6 * page)]
        self.placement.seed(busy, lazy)
        self.busy, self.lazy = dict(busy), dict(lazy) if self.placement.lazy_pages else {}
        self.placement.check()
        for _ in range(50):
            self.allocate()
            self.count()
        self.hold(not self.placement.take(start + page, page), "take() of a seeded area answered that it was free")
