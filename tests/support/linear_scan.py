"""The plain judge of the area list: the loops of mm/vmalloc.c:169-302 on a Python list, line by line."""

from itertools import pairwise

from vmcore.placement.arealist import VmStruct


class LinearScan:
    def __init__(self, word_bits, page_shift):
        self.mask = (1 << word_bits) - 1
        self.page_size = 1 << page_shift
        self.areas = []
        self.nodes_visited = 0

    def align(self, x, align):
        return ((x + align - 1) & self.mask) & ~(align - 1)

    def search(self, size, align, start, end):
        """Return (address, rank of *p), or None for `goto out`."""
        addr = self.align(start, align)
        for rank, tmp in enumerate(self.areas):
            self.nodes_visited += 1
            if tmp.addr < addr:
                if (tmp.addr + tmp.size) & self.mask >= addr:
                    addr = self.align((tmp.size + tmp.addr) & self.mask, align)
                continue
            if (size + addr) & self.mask < addr:
                return None
            if (size + addr) & self.mask <= tmp.addr:
                return addr, rank
            addr = self.align((tmp.size + tmp.addr) & self.mask, align)
            if addr > (end - size) & self.mask:
                return None
        return addr, len(self.areas)

    def find(self, addr):
        for tmp in self.areas:
            self.nodes_visited += 1
            if tmp.addr == addr:
                return tmp
        return None

    def remove(self, area):
        del self.areas[next(rank for rank, tmp in enumerate(self.areas) if tmp is area)]

    def is_orderly(self):
        ends = [area.addr + area.size for area in self.areas]
        shape = all(
            area.size and end <= self.mask and not area.addr % self.page_size and not area.size % self.page_size
            for area, end in zip(self.areas, ends, strict=True)
        )
        return shape and all(end <= area.addr for end, area in zip(ends, self.areas[1:], strict=False))

    def from_address(self, addr):
        """Drop the areas in front that vread steps over (mm/vmalloc.c:644), on an orderly list."""
        ranks = range(len(self.areas)) if self.is_orderly() else ()
        below = [rank for rank in ranks if addr >= self.areas[rank].addr + self.areas[rank].size - self.page_size]
        return self.areas[max(below, default=-1) + 1 :]

    def holes(self, start, end):
        """List the lengths of the runs in [start, end) that no area covers, cut at every border."""
        top = self.mask + 1
        spans = [(a.addr, a.addr + a.size) for a in self.areas if a.size]
        spans += [(0, stop - top) for _, stop in spans if stop > top]
        borders = sorted({start, end, *(x for span in spans for x in span if start < x < end)})
        lengths = [0]
        for low, high in pairwise(borders):
            if any(a <= low and high <= stop for a, stop in spans):
                lengths.append(0)
            else:
                lengths[-1] += high - low
        return lengths


def place(areas, size, align, start, end):
    """Reserve an area in 4 KiB pages as the C does around its search; `size` is without the guard page."""
    size = (size + 0x1000) & areas._mask
    found = areas.search(size, align, start, end)
    if found is None:
        return None
    areas.insert(VmStruct(found.addr, size, 2), found)
    return found.addr
