"""The tree of free blocks against a plain list."""

from random import Random

import pytest

from vmcore.placement.blocktree import BlockTree


def blocks(tree):
    return [(block.start, block.end) for block in tree]


@pytest.mark.parametrize("seed", range(8))
def test_carving_and_giving_back(seed):
    random, tree, free = Random(seed), BlockTree(64), set()
    for step in range(600):
        start = random.randrange(300)
        end = start + random.randrange(1, 20)
        if random.random() < 0.5:
            taken = tree.carve(start, end)
            assert {n for a, b in taken for n in range(a, b)} == free & set(range(start, end))
            free -= set(range(start, end))
        else:
            tree.give_taken(start, end)
            free |= set(range(start, end))
        assert {n for a, b in blocks(tree) for n in range(a, b)} == free
        if step % 20 == 0:
            tree.check()
    tree.check()


def test_blocks_that_touch_are_joined():
    tree = BlockTree(32)
    for start, end in ((10, 20), (30, 40), (20, 30)):
        tree.give(start, end)
    assert blocks(tree) == [(10, 40)]
    tree.check()


def test_a_middle_part_leaves_two_blocks():
    tree = BlockTree(32)
    tree.give(0, 100)
    tree.clip(tree.covering(50), 40, 60)
    assert blocks(tree) == [(0, 40), (60, 100)]
    assert tree.root.start == 60  # the node keeps the upper rest
    tree.check()


def test_the_block_around_an_address_or_below_it():
    tree = BlockTree(32)
    tree.give(10, 20)
    tree.give(30, 40)
    found = [tree.covering(at) for at in (5, 10, 15, 25, 39, 50)]
    assert [block and block.start for block in found] == [None, 10, 10, 10, 30, 30]


def test_the_tree_stays_flat():
    tree = BlockTree(64)
    for n in range(2000):
        tree.give(2 * n, 2 * n + 1)

    def height(block):
        return 0 if block is None else 1 + max(height(block.left), height(block.right))

    assert height(tree.root) <= 2 * 11  # 2 * log2(n + 1)
    for n in range(0, 2000, 3):
        tree.carve(2 * n, 2 * n + 1)
    tree.check()


@pytest.mark.parametrize("damage", ["most", "red", "order"])
def test_check_finds_damage(damage):
    tree = BlockTree(32)
    for n in range(10):
        tree.give(10 * n, 10 * n + 5)
    block = tree.root.left
    if damage == "most":
        block.most += 1
    elif damage == "red":
        block.red = block.left.red = True
    else:
        block.start, block.end = 1000, 1005
        block.most = max(block.most, 5)
    with pytest.raises(AssertionError, match="area list: "):
        tree.check()
