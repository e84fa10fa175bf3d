"""A red-black tree of free blocks that has the shape of the kernel's.

Insertion, removal and rotation follow the case analysis of lib/rbtree.c. Each node carries the size of the largest
block in its subtree, as include/linux/rbtree_augmented.h carries such a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from vmcore.placement.buckets import hold


class Block:
    """A free block ``[start, end)``, which is a node of the tree and of a list in address order.

    Attributes:
        most: bytes of the largest block in the subtree.
        before: the next lower block.
        after: the next higher block.
    """

    __slots__ = ("after", "before", "end", "left", "most", "parent", "red", "right", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end, self.most, self.red = start, end, 0, True
        self.left: Block | None = None
        self.right: Block | None = None
        self.parent: Block | None = None
        self.before: Block | None = None
        self.after: Block | None = None


def largest(n: Block) -> int:
    """Return the bytes of the largest block in a subtree, from its children's ``most``."""
    most, left, right = n.end - n.start, n.left, n.right
    if left is not None and left.most > most:
        most = left.most
    return right.most if right is not None and right.most > most else most


def propagate(n: Block | None, stop: Block | None = None) -> None:
    """Recompute ``most`` from a node upwards, up to the first node that does not change."""
    while n is not stop and n is not None:
        most = largest(n)
        if n.most == most:
            return
        n.most = most
        n = n.parent


class RedBlackTree:
    """The tree and the list of its nodes in address order."""

    def __init__(self) -> None:
        self.root: Block | None = None

    def __iter__(self) -> Iterator[Block]:
        """Iterate over the blocks in address order."""
        n = self.root
        while n is not None and n.left is not None:
            n = n.left
        while n is not None:
            yield n
            n = n.after

    def _replace(self, old: Block, new: Block | None) -> None:
        """Put a node, or nothing, where another one hangs."""
        parent = old.parent
        if parent is None:
            self.root = new
        elif parent.left is old:
            parent.left = new
        else:
            parent.right = new
        if new is not None:
            new.parent = parent

    def _lift(self, c: Block, p: Block) -> None:
        """Rotate a child over its parent, and carry ``most``."""
        self._replace(p, c)
        if p.left is c:
            p.left, moved, c.right = c.right, c.right, p
        else:
            p.right, moved, c.left = c.left, c.left, p
        if moved is not None:
            moved.parent = p
        p.parent = c
        c.most, p.most = p.most, largest(p)

    def insert(self, n: Block, parent: Block | None, left: bool) -> None:
        """Hang a block below a node as a leaf, and rebalance (rb_insert_augmented)."""
        n.parent = parent
        if parent is None:
            self.root = n
        elif left:
            parent.left = n
            n.before, n.after = parent.before, parent
        else:
            parent.right = n
            n.before, n.after = parent, parent.after
        if n.before is not None:
            n.before.after = n
        if n.after is not None:
            n.after.before = n
        self._repair_red(n)
        n.most = 0
        propagate(n)

    def _repair_red(self, n: Block) -> None:
        """Rebalance after a red node was added."""
        while True:
            p = n.parent
            if p is None:
                n.red = False
                return
            if not p.red:
                return
            g = p.parent
            assert g is not None  # a red node is not the root
            on_left = p is g.left
            uncle = g.right if on_left else g.left
            if uncle is not None and uncle.red:
                uncle.red = p.red = False
                g.red = True
                n = g
                continue
            if n is (p.right if on_left else p.left):
                self._lift(n, p)
                p = n
            p.red, g.red = False, True
            self._lift(p, g)
            return

    def remove(self, n: Block) -> None:
        """Take a block out, and rebalance (rb_erase_augmented)."""
        if n.before is not None:
            n.before.after = n.after
        if n.after is not None:
            n.after.before = n.before
        short: Block | None = None
        if n.left is None or n.right is None:
            parent, child = n.parent, n.right if n.left is None else n.left
            self._replace(n, child)
            if child is not None:
                child.red = n.red
            elif not n.red:
                short = parent
            propagate(parent)
        else:
            short = self._remove_inner(n, n.left, n.right)
        if short is not None:
            self._repair_short(short)

    def _remove_inner(self, n: Block, left: Block, right: Block) -> Block | None:
        """Put the successor in the place of a node with two children. Return the node that is short, if any."""
        s = right
        while s.left is not None:
            s = s.left
        child, parent, s_red = s.right, s, s.red
        s.most = n.most
        if s is not right:
            assert s.parent is not None
            parent = s.parent
            parent.left = child
            s.right, right.parent = right, s
            propagate(parent, s)
        s.left, left.parent = left, s
        self._replace(n, s)
        s.red = n.red
        if child is not None:
            child.parent, child.red = parent, False
        propagate(s)
        return parent if child is None and not s_red else None

    def _repair_short(self, p: Block | None) -> None:
        """Rebalance after the empty side of a node lost a black one."""
        n: Block | None = None
        while p is not None:
            on_left = n is not p.right
            s = p.right if on_left else p.left
            assert s is not None  # the other side is longer
            if s.red:
                s.red, p.red = False, True
                self._lift(s, p)
                s = p.right if on_left else p.left
                assert s is not None
            near, far = (s.left, s.right) if on_left else (s.right, s.left)
            if far is None or not far.red:
                if near is None or not near.red:
                    s.red = True
                    if p.red:
                        p.red = False
                        return
                    n, p = p, p.parent
                    continue
                assert near is not None  # it is red
                self._lift(near, s)
                far, s = s, near
            s.red, p.red, far.red = p.red, False, False
            self._lift(s, p)
            return

    def check(self) -> None:
        """Verify the order of the blocks, the colours and ``most``.

        Raises:
            AssertionError: one rule does not hold.
        """
        if self.root is None:
            return
        hold(not self.root.red and self.root.parent is None, "the root is red or has a parent")
        self._height(self.root)
        blocks = list(self)
        hold(len(blocks) == len(self._below(self.root)), "tree and list have different blocks")
        hold(all(a.end < b.start and b.before is a for a, b in pairwise(blocks)), "order")
        hold(all(b.start < b.end for b in blocks), "a block is empty")

    def _below(self, n: Block | None) -> list[Block]:
        return [] if n is None else [*self._below(n.left), n, *self._below(n.right)]

    def _height(self, n: Block | None) -> int:
        """Return the number of black nodes down to each leaf, which must be the same."""
        if n is None:
            return 0
        for child in (n.left, n.right):
            hold(child is None or child.parent is n, f"the child of {n.start:#x} has another parent")
            hold(child is None or not (n.red and child.red), f"two red nodes at {n.start:#x}")
        hold(n.most == largest(n), f"most of {n.start:#x} is {n.most:#x}, expected {largest(n):#x}")
        left, right = self._height(n.left), self._height(n.right)
        hold(left == right, f"the subtrees of {n.start:#x} have {left} and {right} black nodes")
        return left + (not n.red)
