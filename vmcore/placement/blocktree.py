"""The free space of Linux 5.2 and later: disjoint free blocks that never touch, in a tree.

Which block serves a request depends on the shape of the tree. Function names in docstrings are those of
mm/vmalloc.c, Linux 6.12.
"""

from __future__ import annotations

from collections.abc import Iterator

from vmcore.placement.redblack import Block, RedBlackTree, propagate


class BlockTree(RedBlackTree):
    """Disjoint free blocks that never touch."""

    def __init__(self, word_bits: int) -> None:
        super().__init__()
        self._mask = (1 << word_bits) - 1

    # ---- the search

    def find(self, size: int, align: int, length: int, start: int) -> Block | None:
        """Find the block that serves a request (find_vmap_lowest_match).

        A subtree is entered if its largest block has ``length`` bytes. A shorter block is taken only if the
        descent meets it, so that the shape of the tree decides.

        Args:
            size: bytes, page aligned.
            align: bytes, a power of two.
            length: the bytes that a subtree must have in one block.
            start: first address of the window.
        """
        low, n, room, mask = start, self.root, align - 1, self._mask
        while n is not None:
            left, right = n.left, n.right
            if left is not None and left.most >= length and low < n.start:
                n = left
                continue
            at = ((n.start if n.start > low else low) + room & -align) & mask
            if at >= low and at + size <= n.end:
                return n
            if right is not None and right.most >= length:
                n = right
                continue
            while True:
                n = n.parent
                if n is None:
                    return None
                at = ((n.start if n.start > low else low) + room & -align) & mask
                if at >= low and at + size <= n.end:
                    return n
                right = n.right
                if right is not None and right.most >= length and low <= n.start:
                    low, n = n.start + 1, right
                    break
        return None

    def covering(self, address: int) -> Block | None:
        """Find the block around an address, or the next one below (pvm_find_va_enclose_addr)."""
        n, found = self.root, None
        while n is not None:
            if n.start > address:
                n = n.left
            else:
                found = n
                if n.end >= address:
                    break
                n = n.right
        return found

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the free parts of ``[start, end)`` in address order. The tree must not change meanwhile."""
        block = self.covering(start)
        if block is None:
            block = next(iter(self), None)
        while block is not None and block.start < end:
            if block.end > start:
                yield max(block.start, start), min(block.end, end)
            block = block.after

    # ---- taking and giving back

    def clip(self, block: Block, start: int, end: int) -> None:
        """Take ``[start, end)`` out of a block that covers it (va_clip)."""
        if block.start == start:
            if block.end == end:
                self.remove(block)
            else:
                block.start = end
                propagate(block)
        elif block.end == end:
            block.end = start
            propagate(block)
        else:
            rest = Block(block.start, start)
            block.start = end  # the node keeps the upper rest
            propagate(block)
            parent, left = block, True
            child = block.left
            while child is not None:
                parent, left, child = child, False, child.right
            self.insert(rest, parent, left)

    def carve(self, start: int, end: int) -> list[tuple[int, int]]:
        """Take whatever is free of ``[start, end)``, and return it in address order."""
        taken = list(self.within(start, end))
        for first, stop in taken:
            block = self.covering(first)
            assert block is not None  # within() found it
            self.clip(block, first, stop)
        return taken

    def give(self, start: int, end: int) -> None:
        """Give ``[start, end)`` back, of which nothing is free, and join it with the blocks that it touches.

        The order of the steps is that of __merge_or_add_vmap_area, because it decides the shape of the tree.
        """
        n, parent, left = self.root, None, False
        while n is not None:
            parent, left = n, end <= n.start
            n = n.left if left else n.right
        after = parent if left or parent is None else parent.after
        before = parent if not left else parent.before if parent is not None else None
        joined = None
        if after is not None and after.start == end:
            after.start = start
            joined = after
        if before is not None and before.end == start:
            if joined is not None:
                self.remove(joined)
            before.end = joined.end if joined is not None else end
            joined = before
        if joined is None:
            self.insert(Block(start, end), parent, left)
        else:
            propagate(joined)

    def give_taken(self, start: int, end: int) -> None:
        """Give ``[start, end)`` back, of which parts may be free already."""
        self.carve(start, end)
        self.give(start, end)
