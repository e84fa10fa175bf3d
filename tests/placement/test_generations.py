"""The placement generations against the answers of compiled kernels."""

from itertools import product
from pathlib import Path
from random import Random

import pytest

from vmcore.placement.generations import BUILT_IN, generation_of, version
from vmcore.placement.seam import Purged, Space
from vmcore.testing.placement import replay_script

DATA = Path(__file__).parents[1] / "data" / "placement"
SCRIPTS = sorted(DATA.glob("*.jsonl.xz"))
GENERATIONS = {generation.name: generation for generation in BUILT_IN}
ANSWERED = [name for name in GENERATIONS if name != "2.6.23"]
#: with one node these rules are alike
ALIKE = {("6.9", "6.16"), ("6.16", "6.9")}
PAGE = 4096
SPACE = Space(64, PAGE, 0xFFFF_C900_0000_0000, 0xFFFF_C900_0FFF_FFFF)


def own(name):
    return GENERATIONS[name]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name.removesuffix(".jsonl.xz"))
def test_a_script(path):
    tally = replay_script(str(path), own)
    assert (tally.first, tally.mismatches, tally.operations) == ("", 0, 2000)


def test_there_are_scripts_of_each_generation():
    assert len(SCRIPTS) == 170
    assert {path.name.split("-")[0] for path in SCRIPTS} == set(ANSWERED)


@pytest.mark.parametrize(
    ("name", "other"), [pair for pair in product(ANSWERED, GENERATIONS) if pair[0] != pair[1]]
)
def test_scripts_tell_generations_apart(name, other):
    failed = [
        replay_script(str(DATA / f"{name}-{n:02}.jsonl.xz"), lambda _: GENERATIONS[other]).mismatches
        for n in range(10)
    ]
    if (name, other) in ALIKE:
        assert 0 < sum(failed) < 10
    else:
        assert failed == [1] * 10


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("2.6.18", "2.6.23"),  # older than all: the oldest rules
        ("2.6.23", "2.6.23"),
        ("2.6.27.62", "2.6.23"),
        ("2.6.28", "2.6.28"),
        ("2.6.38", "2.6.28"),
        ("2.6.39", "2.6.39"),
        ("3.0.86", "3.0"),
        ("4.19.0-26-amd64", "3.0"),
        ("5.1", "3.0"),
        ("5.2.1", "5.2"),
        ("5.10.89", "5.2"),
        ("5.15", "5.11"),
        ("5.17.0", "5.16"),
        ("v6.1-rc3", "5.18"),
        ("6.8.12", "5.18"),
        ("6.12.107", "6.9"),
        ("6.16", "6.16"),
        ("7.3.4", "6.16"),
    ],
)
def test_a_version_has_a_generation(kernel, name):
    assert generation_of(kernel).name == name


@pytest.mark.parametrize("text", ["", "6", "six", "6.12.1.2.3.4", "12345.1", "-6.1"])
def test_a_text_that_is_no_version(text):
    assert version(text) is None
    assert generation_of(text) is None


def filled(name, **space):
    """Return a placement with areas of 1 to 20 pages, of which every second is freed, and its areas in use."""
    placement, random, busy = own(name).make(Space(64, PAGE, SPACE.start, SPACE.end, **space)), Random(7), []
    for _ in range(400):
        size = random.randrange(1, 21) * PAGE
        busy.append((placement.attempt(size, 1, SPACE.start, SPACE.end, random.randrange(8)), size))
    for at, size in busy[::2]:
        placement.release(at, size)
    return placement, busy[1::2]


@pytest.mark.parametrize("name", GENERATIONS)
def test_freed_space_comes_back_at_a_purge(name):
    placement, busy = filled(name, cpus=8)
    window = SPACE.start, SPACE.end + 1 & -PAGE
    before, lazy = placement.free_bytes(*window), placement.lazy_pages * PAGE
    assert (lazy == 0) == (name == "2.6.23")
    placement.purge(everything=True)
    assert placement.free_bytes(*window) == before + lazy
    assert placement.free_bytes(*window) == SPACE.end + 1 - SPACE.start - sum(size for _, size in busy)
    assert placement.lazy_pages == 0
    assert placement.purge() == Purged(0, 0, 0)
    placement.check()


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_known_address_is_carved_out_of_whatever_holds_it(name):
    placement, busy = filled(name, cpus=8)
    at, size = busy[50]
    assert not placement.take(at, size + 40 * PAGE)
    placement.check()
    assert placement.free_bytes(at, at + size + 40 * PAGE) == 0
    far = SPACE.end + 1 - 64 * PAGE
    assert placement.take(far, 8 * PAGE)
    assert placement.free_bytes(far, far + 64 * PAGE) == 56 * PAGE
    assert placement.largest_hole(far, far + 16 * PAGE) == 8 * PAGE


@pytest.mark.parametrize("name", ANSWERED)
def test_a_drain_is_wanted_above_the_limit(name):
    placement = own(name).make(Space(64, PAGE, SPACE.start, SPACE.end, cpus=2))
    size = 1 << 20
    areas = [placement.attempt(size, 1, SPACE.start, SPACE.end) for _ in range(65)]
    drains = [placement.release(at, size) for at in areas]  # 2 CPUs: 64 MiB
    assert drains == [False] * 64 + [True]


def test_a_pool_serves_the_node_that_filled_it():
    placement = own("6.16").make(Space(64, PAGE, SPACE.start, SPACE.end, cpus=2))
    first, second = (placement.attempt(2 * PAGE, 1, SPACE.start, SPACE.end, cpu) for cpu in (0, 1))
    placement.release(first, 2 * PAGE)
    placement.release(second, 2 * PAGE)
    placement.purge()
    third = placement.attempt(2 * PAGE, 1, SPACE.start, SPACE.end, 1)
    assert third == second
    assert placement.attempt(2 * PAGE, 1, SPACE.start, SPACE.end, 1) == second + 2 * PAGE  # its pool is empty
    assert placement.attempt(2 * PAGE, 1, SPACE.start, SPACE.end, 0) == first


def test_seeded_areas_are_not_given_out():
    busy, lazy = [(SPACE.start, SPACE.start + PAGE)], [(SPACE.start + 2 * PAGE, SPACE.start + 3 * PAGE)]
    for name in ANSWERED:
        placement = own(name).make(SPACE)
        placement.seed(busy, lazy)
        assert placement.lazy_pages == 1
        got = [placement.attempt(PAGE, 1, SPACE.start, SPACE.end) for _ in range(2)]
        gap = 1 if name in ("2.6.28", "2.6.39") else 0
        expected = [3 + gap, 5 + gap] if gap else [1, 3]
        assert got == [SPACE.start + n * PAGE for n in expected], name
