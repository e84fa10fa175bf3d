"""A TLB by itself: the slots, what passes without a walk, and what a drop or a switch takes away."""

import numpy as np
import pytest

from vmcore.architecture import Tlb
from vmcore.cpu.tlb import Translation, TranslationBuffer, allows
from vmcore.paging.rights import CACHED, CLEAN, EXECUTE, READ, SHARED, WRITE

SLOTS, SHIFT, LARGE = 16, 12, 16
READ_ONLY, CLEAN_PAGE, OPEN = READ | EXECUTE, READ | WRITE | CLEAN, READ | WRITE


def buffer(**kind):
    return TranslationBuffer(Tlb(entries=SLOTS, **kind), SHIFT)


def keep(tlb, page, flags=OPEN, shift=SHIFT, space=0, where=None):
    """Fill one entry whose frame is its page number plus 100."""
    where = page + 100 << SHIFT if where is None else where
    return tlb.fill(Translation(page, page + 100 << SHIFT, flags, shift, space), where)


def keep_many(tlb, pages, flags=OPEN, shift=SHIFT, space=0, where=None):
    """Fill the same entries in one step."""
    pages = np.asarray(pages, np.int64)
    physical = pages + 100 << SHIFT
    wide = [np.broadcast_to(np.array(a, t), len(pages)) for a, t in ((flags, np.uint8), (shift, np.uint8))]
    places = physical if where is None else np.broadcast_to(np.asarray(where, np.int64), len(pages))
    tlb.fill_many(pages, physical, *wide, space, places)


def columns(tlb):
    return {
        name: getattr(tlb, name).tolist()
        for name in ("page", "physical", "flags", "shift", "space", "where", "reads", "writes")
    }


def passes(tlb, page):
    """Tell whether a load and a store of a page go straight to memory."""
    n = page % SLOTS
    return tlb.reading[n] == page, tlb.writing[n] == page


def pages(tlb):
    return [entry.page for entry in tlb.entries()]


@pytest.mark.parametrize("fill", [keep, lambda tlb, page, **more: keep_many(tlb, [page], **more)])
@pytest.mark.parametrize(
    ("flags", "load", "store"),
    [
        (OPEN, True, True),
        (READ_ONLY, True, False),
        (CLEAN_PAGE, True, False),
        (WRITE, False, True),
        (WRITE | CLEAN, False, False),
        (EXECUTE | SHARED | CACHED, False, False),
        (0, False, False),
    ],
)
def test_what_passes_without_a_walk(fill, flags, load, store):
    tlb = buffer()
    fill(tlb, 0x123, flags=flags)
    assert passes(tlb, 0x123) == (load, store)
    fill(tlb, 0x124, flags=flags, where=-1)
    assert passes(tlb, 0x124) == (False, False)
    fill(tlb, 0x120, flags=flags, where=0)
    assert passes(tlb, 0x120) == (load, store)
    tlb.direct = False
    fill(tlb, 0x123, flags=flags)
    assert passes(tlb, 0x123) == (False, False)
    assert all(page < 0 or page % SLOTS == n for n, page in enumerate(tlb.reads.tolist()))
    assert (tlb.reads[0x123 % SLOTS], tlb.writes[0x123 % SLOTS]) == (-1 - 0x123 % SLOTS,) * 2


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("count", [1, 5, SLOTS - 1, SLOTS, SLOTS + 1, 3 * SLOTS])
def test_many_fills_are_as_one_after_the_other(count, direct):
    rng = np.random.default_rng(count)
    one, many = buffer(), buffer()
    one.direct = many.direct = direct
    for first, space in ((0x400, 0), (0x40B, 7)):
        numbers = np.arange(first, first + count)
        flags = rng.integers(0, 128, count).astype(np.uint8)
        shift = np.where(rng.integers(0, 2, count), LARGE, SHIFT).astype(np.uint8)
        where = np.where(rng.integers(0, 4, count), numbers << SHIFT, -1)
        for row in zip(numbers.tolist(), flags.tolist(), shift.tolist(), where.tolist(), strict=True):
            keep(one, row[0], row[1], row[2], space, row[3])
        keep_many(many, numbers, flags, shift, space, where)
        assert columns(one) == columns(many)
        assert len(one) == len(many) == min(len(pages(one)), SLOTS)


def test_an_empty_buffer_holds_nothing():
    tlb = buffer()
    assert (len(tlb), tlb.entries(), tlb.filled) == (0, [], False)
    assert [tlb.slot(page, 0) for page in range(SLOTS)] == [-1] * SLOTS
    assert not tlb.hits(np.arange(SLOTS), 0).any()
    assert (tlb.drop_all(), tlb.drop_pages(0, SLOTS), tlb.switch(1)) == (0, 0, 0)
    assert [passes(tlb, page) for page in range(SLOTS)] == [(False, False)] * SLOTS
    assert (tlb.page < 0).all()
    assert (tlb.physical == -1).all()
    assert (tlb.where == -1).all()
    assert (tlb.space == 0).all()


def test_columns_have_the_types_that_are_promised():
    tlb = buffer()
    types = {
        "page": np.int64, "physical": np.int64, "where": np.int64, "reads": np.int64, "writes": np.int64,
        "flags": np.uint8, "shift": np.uint8, "space": np.int32,
    }  # fmt: skip
    assert {name: getattr(tlb, name).dtype for name in types} == types


def test_entries_in_order_of_pages():
    tlb = buffer()
    keep(tlb, 0x21, OPEN, SHIFT, 3)
    keep(tlb, 0x0F, READ, LARGE)
    keep(tlb, 0x00, READ, LARGE, 2)
    assert tlb.entries() == [
        Translation(0x00, 100 << SHIFT, READ, LARGE, 2),
        Translation(0x0F, 0x0F + 100 << SHIFT, READ, LARGE, 0),
        Translation(0x21, 0x21 + 100 << SHIFT, OPEN, SHIFT, 3),
    ]
    assert len(tlb) == 3


def test_a_page_is_found_by_its_own_space_and_a_shared_one_by_all():
    tlb = buffer(tagged=True)
    keep(tlb, 0x10, OPEN, space=1)
    keep(tlb, 0x11, OPEN | SHARED, space=1)
    keep(tlb, 0x12, CACHED | READ, space=0)
    wanted = {0x10: (-1, 0, -1), 0x11: (1, 1, 1), 0x12: (2, -1, -1), 0x20: (-1, -1, -1)}
    for page, slots in wanted.items():
        assert tuple(tlb.slot(page, space) for space in range(3)) == slots
        assert tuple(bool(tlb.hits(np.array([page]), space)[0]) for space in range(3)) == tuple(
            slot >= 0 for slot in slots
        )


def test_hits_end_where_the_buffer_has_gone_round():
    tlb = buffer()
    keep_many(tlb, range(0x20, 0x20 + SLOTS))
    asked = np.arange(0x20 - 2, 0x20 + SLOTS + 4)
    assert np.flatnonzero(tlb.hits(asked, 0)).tolist() == list(range(2, SLOTS))
    assert tlb.hits(asked[2:], 0).tolist() == [True] * SLOTS + [False] * 4


@pytest.mark.parametrize(
    ("flags", "ready"),
    [
        (OPEN, (True, True, False)),
        (CLEAN_PAGE, (True, False, False)),
        (READ_ONLY, (True, False, True)),
        (SHARED | CACHED | CLEAN, (False, False, False)),
        (EXECUTE | CLEAN, (False, False, True)),
    ],
)
def test_ready_and_allows_say_the_same(flags, ready):
    tlb = buffer()
    n = keep(tlb, 5, flags)
    for access, wanted in zip((READ, WRITE, EXECUTE), ready, strict=True):
        assert allows(flags, access) is wanted
        assert tlb.ready(access).tolist() == [wanted if slot == n else False for slot in range(SLOTS)]
        assert tlb.ready(access, np.array([n, n + 1])).tolist() == [wanted, False]


def test_a_reserved_right_allows_nothing():
    assert not allows(0xF8, 0xFF)


def test_drop_all_leaves_nothing():
    tlb = buffer()
    keep(tlb, 3)
    keep_many(tlb, range(8, 12), shift=LARGE)
    assert tlb.filled
    assert tlb.drop_all() == 5
    assert (len(tlb), pages(tlb), tlb.filled) == (0, [], False)
    assert [passes(tlb, page) for page in (3, 8, 11)] == [(False, False)] * 3
    assert (tlb.drop_all(), tlb.drop_pages(3, 1)) == (0, 0)


@pytest.mark.parametrize("count", [1, 4, 8, 9, 12])
def test_pages_are_dropped_one_by_one_and_many_at_once(count):
    tlb = buffer()
    keep_many(tlb, range(0x40, 0x40 + SLOTS))
    assert tlb.drop_pages(0x42, count) == count
    assert pages(tlb) == [page for page in range(0x40, 0x40 + SLOTS) if not 0x42 <= page < 0x42 + count]
    assert [passes(tlb, page) for page in (0x41, 0x42, 0x42 + count)] == [(True,) * 2, (False,) * 2, (True,) * 2]
    assert tlb.drop_pages(0x42, count) == 0
    assert tlb.drop_pages(0x42 + SLOTS, SLOTS) == 0  # the same slots, other pages
    assert len(tlb) == SLOTS - count


@pytest.mark.parametrize("fill", [keep, lambda tlb, page, **more: keep_many(tlb, [page], **more)])
def test_a_large_page_goes_with_any_of_its_pages(fill):
    tlb = buffer()
    fill(tlb, 0x35, shift=LARGE)  # one of 0x30..0x3F
    keep(tlb, 0x2F)
    keep(tlb, 0x40)
    assert tlb.drop_pages(0x2F, 1) == 1
    assert pages(tlb) == [0x35, 0x40]
    assert tlb.drop_pages(0x40, 2) == 1
    assert tlb.drop_pages(0x2E, 2) == 0
    assert tlb.drop_pages(0x3F, 1) == 1
    fill(tlb, 0x35, shift=LARGE)
    assert tlb.drop_pages(0x20, 17) == 1
    assert pages(tlb) == []


@pytest.mark.parametrize("fill", [keep, lambda tlb, page, **more: keep_many(tlb, [page], **more)])
def test_a_large_page_is_remembered_whatever_comes_after_it(fill):
    tlb = buffer()
    fill(tlb, 0x35, shift=LARGE)
    assert tlb.drop_pages(0x3A, 1) == 1
    fill(tlb, 0x35, shift=LARGE)
    keep(tlb, 0x41)
    keep_many(tlb, [0x42, 0x43])
    assert tlb.drop_pages(0x3A, 1) == 1
    assert pages(tlb) == [0x41, 0x42, 0x43]


def test_page_zero_is_a_page():
    tlb = buffer()
    keep(tlb, 0)
    assert (tlb.slot(0, 0), len(tlb), pages(tlb)) == (0, 1, [0])
    assert tlb.switch(1) == 1
    keep(tlb, 0, shift=LARGE)
    assert tlb.drop_pages(0, 1) == 1
    keep(tlb, 0)
    keep(tlb, 1, shift=LARGE)
    assert tlb.drop_pages(3, 12) == 1
    assert pages(tlb) == [0]
    assert tlb.drop_pages(0, 12) == 1


def test_an_untagged_buffer_keeps_only_what_is_shared():
    tlb = buffer()
    keep(tlb, 0, OPEN | SHARED)
    keep(tlb, 1, OPEN)
    keep(tlb, 2, OPEN | SHARED, space=4)
    keep(tlb, 3, READ, space=4)
    assert tlb.switch(4) == 2
    assert pages(tlb) == [0, 2]
    assert [passes(tlb, page) for page in range(4)] == [(True,) * 2, (False,) * 2, (True,) * 2, (False,) * 2]


def test_a_tagged_buffer_opens_what_is_the_spaces_own():
    tlb = buffer(tagged=True)
    keep(tlb, 0, OPEN | SHARED)
    keep(tlb, 1, OPEN, space=1)
    keep(tlb, 2, CLEAN_PAGE, space=2)
    keep(tlb, 3, OPEN, space=2, where=-1)
    keep(tlb, 4, OPEN, space=2, where=0)
    keep(tlb, 5, READ_ONLY, space=2)
    closed = (False, False)
    assert tlb.switch(2) == 0
    assert pages(tlb) == list(range(6))
    assert [passes(tlb, page) for page in range(6)] == [
        (True, True), closed, (True, False), closed, (True, True), (True, False),
    ]  # fmt: skip
    assert tlb.switch(1) == 0
    assert [passes(tlb, page) for page in range(6)] == [(True, True), (True, True), *[closed] * 4]
    assert tlb.reads[2] == tlb.writes[2] == -3
    tlb.direct = False
    assert tlb.switch(2) == 0
    assert [passes(tlb, page) for page in range(6)] == [(True, True), *[closed] * 5]


@pytest.mark.parametrize("tagged", [True, False])
def test_a_space_that_ends_takes_its_own_entries_along(tagged):
    tlb = buffer(tagged=tagged)
    assert (tlb.drop_space(2), tlb.filled) == (0, False)
    keep(tlb, 0, OPEN, space=2)
    keep(tlb, 1, OPEN | SHARED, space=2)
    keep(tlb, 2, READ_ONLY, space=3)
    keep(tlb, 3, CLEAN_PAGE, space=2)
    assert tlb.drop_space(4) == 0
    assert tlb.drop_space(2) == 2
    assert pages(tlb) == [1, 2]
    assert [passes(tlb, page) for page in range(4)] == [(False,) * 2, (True,) * 2, (True, False), (False,) * 2]
    assert tlb.drop_space(2) == 0


def test_stores_are_stopped_and_loads_are_not():
    tlb = buffer()
    keep(tlb, 1)
    keep(tlb, 2)
    tlb.stop_stores()
    assert [passes(tlb, page) for page in (1, 2)] == [(True, False)] * 2
    keep(tlb, 3)
    keep_many(tlb, [4])
    assert [passes(tlb, page) for page in (3, 4)] == [(False, False)] * 2
    assert pages(tlb) == [1, 2, 3, 4]


@pytest.mark.parametrize("filled", [True, False])
def test_a_buffer_that_was_stopped_answers_nothing(filled):
    tlb = buffer()
    keep(tlb, 1)
    keep_many(tlb, [2, 3])
    tlb.filled = filled  # an interrupt may come before it is said
    tlb.stop()
    assert (len(tlb), pages(tlb), tlb.direct) == (0, [], False)
    assert [passes(tlb, page) for page in (1, 2, 3)] == [(False, False)] * 3
    keep(tlb, 4)
    assert passes(tlb, 4) == (False, False)
