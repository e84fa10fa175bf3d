"""Traces of real kernels, predicted on their own windows."""

from random import Random

import pytest
from attrs import evolve

from vmcore import samples
from vmcore.errors import ConfigurationError
from vmcore.placement.generations import BUILT_IN
from vmcore.study.percpu import find_chunks
from vmcore.study.verify import SCHEMA, traced_space, verify
from vmcore.texts.trace import read_trace
from vmcore.texts.tracepoints import ALLOC
from vmcore.texts.vmallocinfo import read_vmallocinfo

#: name: allocations, those right at the first look, generation, early areas, percpu chunks
EXPECTED = {
    "arm-short": (3962, 3962, "6.16", 1, 1),
    "arm64-4k-48": (7226, 7226, "6.16", 5, 1),
    "i386-2level": (2655, 2654, "5.18", 0, 1),
    "i386-pae": (4806, 4805, "5.18", 0, 1),
    "riscv64-sv39": (961, 961, "6.16", 0, 1),
    "test_vmalloc-x86_64": (72_911, 72_911, "6.16", 0, 17),
    "x86_64-l4": (7877, 7877, "6.16", 0, 1),
}


def read(name):
    with samples.open_sample(name) as stream, samples.open_vmallocinfo(name) as info:
        return read_trace(stream, name), read_vmallocinfo(info, name)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_address_of_a_trace_is_predicted(name):
    allocations, exact, kernel, early, chunks = EXPECTED[name]
    found = verify(*read(name))
    assert (found.allocations, found.exact, found.explained) == (allocations, exact, allocations)
    assert (found.kernel, found.early, found.percpu_chunks, found.misses) == (kernel, early, chunks, ())
    assert (found.right, found.share, found.failed_right) == (True, 1.0, found.failed)


def test_a_trace_tells_its_generation():
    found = verify(*read("i386-pae"))
    assert (found.kernel, found.alike) == ("5.18", ("5.16",))
    trace, info = read("x86_64-l4")
    shares = {g.name: verify(trace, info, g.name).share for g in BUILT_IN}
    assert [name for name, share in shares.items() if share == 1] == ["6.9", "6.16"]
    assert shares["2.6.23"] < 0.4


def test_failed_tries_are_predicted():
    found = verify(*read("test_vmalloc-x86_64"), "6.12")
    assert (found.failed, found.failed_right, found.kernel) == (4, 4, "6.9")
    assert found.unknown_frees == 14


def test_percpu_chunks_of_one_task_are_found():
    trace, info = read("test_vmalloc-x86_64")
    chunks = find_chunks(trace.events, info, traced_space(trace, info), len(trace.unknown_frees))
    assert (len(chunks.after), chunks.size, chunks.align) == (17, 2 << 20, 2 << 20)
    assert all(trace.events.kind[n] == ALLOC for n in chunks.after)
    assert find_chunks(trace.events, [], traced_space(trace, []), 14).after == ()


def test_without_vmallocinfo_the_result_says_what_is_missing():
    trace, _ = read("arm64-4k-48")
    found = verify(trace)
    assert found.explained < found.allocations
    assert any("give /proc/vmallocinfo" in note for note in found.notes)
    first = found.misses[0]
    facts = found.facts()
    assert facts["misses"][0] == {
        "line": first.line, "address": hex(first.address), "predicted": first.predicted and hex(first.predicted),
    }  # fmt: skip
    assert list(facts) == ["schema", *(key.name for key in SCHEMA.keys)]


@pytest.mark.parametrize("name", [generation.name for generation in BUILT_IN])
def test_a_spoiled_trace_never_breaks_a_generation(name):
    """Addresses are moved, so that areas overlap and frees hit nothing."""
    trace, info = read("riscv64-sv39")
    random, events = Random(name), trace.events
    moved = [a + random.choice((-1, 0, 0, 0, 0, 0, 1, 3)) * 4096 if a else a for a in events.addr]
    sizes = [s + random.choice((0, 0, 0, 4096)) if s else s for s in events.size]
    spoiled = evolve(trace, events=evolve(events, addr=moved, size=sizes))
    found = verify(spoiled, info, name)
    assert 0 <= found.exact <= found.explained < found.allocations == 961


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": "new"}, "kernel 'new': expected a version such as 6.12, auto, or one of 2.6.23, "),
        ({"cpus": 0}, "cpus is 0, expected at least 1"),
    ],
)
def test_a_question_that_cannot_be_answered(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        verify(*read("riscv64-sv39"), **arguments)
