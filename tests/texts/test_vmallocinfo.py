"""Reading /proc/vmallocinfo: the kernel's lines and damaged ones."""

import io

import pytest

from vmcore.errors import TraceError
from vmcore.texts.vmallocinfo import VmallocinfoEntry, read_vmallocinfo


def info(text):
    return read_vmallocinfo(io.BytesIO(text.encode()), "v")


AREA = "0xf7403000-0xf7405000    8192"


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (
            " load_module+0x7a4/0x24a0 pages=1 vmalloc N0=1 N2=3",
            ("load_module+0x7a4/0x24a0", ["vmalloc"], 1, None, ((0, 1), (2, 3))),
        ),
        (
            " hpet_enable+0xaf/0x464 phys=0xfed00000 ioremap",
            ("hpet_enable+0xaf/0x464", ["ioremap"], 0, 0xFED00000, ()),
        ),
        (
            " acpi_os_map_memory+0x13/0x1c phys=cff68000 ioremap",
            ("acpi_os_map_memory+0x13/0x1c", ["ioremap"], 0, 0xCFF68000, ()),
        ),
        (
            " a+0x1/0x2 [zram] pages=600 vmalloc vpages N0=600",
            ("a+0x1/0x2 [zram]", ["vmalloc", "vpages"], 600, None, ((0, 600),)),
        ),
        (" a+0x1/0x2 pages=2 vmalloc user", ("a+0x1/0x2", ["user", "vmalloc"], 2, None, ())),
        (" dma_alloc+0x1/0x2 dma-coherent", ("dma_alloc+0x1/0x2", ["dma-coherent"], 0, None, ())),
        (
            " paging_init+0x1/0x2 phys=0x0000000040210000 vmap",
            ("paging_init+0x1/0x2", ["vmap"], 0, 0x40210000, ()),
        ),
        (" bpf+0x1/0x2 sparse", ("bpf+0x1/0x2", ["sparse"], 0, None, ())),
        (" pages=1 vmalloc", ("", ["vmalloc"], 1, None, ())),
        (" vmap", ("", ["vmap"], 0, None, ())),
        (" vm_map_ram", ("", ["vm_map_ram"], 0, None, ())),
        (" unpurged vm_area", ("", ["unpurged vm_area"], 0, None, ())),
        ("", ("", [], 0, None, ())),
    ],
)
def test_lines_of_vmallocinfo(rest, expected):
    caller, kinds, *counts = expected
    entry = VmallocinfoEntry(0xF7403000, 0xF7405000, 8192, caller, frozenset(kinds), *counts)
    assert info(f"{AREA}{rest}\n") == [entry]


EXPECTED = "expected '0xSTART-0xEND SIZE CALLER [pages=N] [phys=X] KIND...'"


@pytest.mark.parametrize(
    "line",
    [
        "0xf7403000-0xf74",
        f"{AREA} a+0x1/0x2 pages=x vmalloc",
        f"{AREA} a+0x1/0x2 pages=1 vmal",
        f"{AREA} a+0x1/0x2 vmalloc pages=1",
        "(____ptrval____)-(____ptrval____)    8192 a+0x1/0x2 vmap",
        "0xf7403000-0xf7405000   -8192 a+0x1/0x2 vmap",
        "hello",
        "",
    ],
)
def test_bad_lines_of_vmallocinfo(line):
    with pytest.raises(TraceError) as error:
        info(f"{AREA} vmap\n{line}\n")
    advice = "the line is torn or was edited: read /proc/vmallocinfo again"
    assert str(error.value) == f"v:2: found {line[:60]!r}, {EXPECTED}; {advice}"


def test_a_last_line_of_vmallocinfo_without_newline_may_be_torn():
    with pytest.raises(TraceError, match=r"^v:1: found '0xf7403000-0xf7405000    8192 a pages=1', expected"):
        info(f"{AREA} a pages=1")
    with pytest.raises(TraceError, match=r"the line is torn"):
        info(f"{AREA} a pages=12 vmalloc N0=1")
    assert info(f"{AREA} a pages=12 vmalloc N0=12")[0].nodes == ((0, 12),)


@pytest.mark.parametrize("start", ["0000000000000000", "00000000deadbeef"])
def test_hidden_addresses_in_vmallocinfo(start):
    with pytest.raises(TraceError) as error:
        info(f"0x{start}-0x0000000000000000    8192 a+0x1/0x2 vmap\n")
    assert str(error.value) == (
        f"v:1: found {int(start, 16):#x}-0x0 with size 8192, expected end - start = size > 0; the kernel hides "
        "addresses: read it as root, or boot with no_hash_pointers"
    )


@pytest.mark.parametrize("start", [0, 0xF7403000])
def test_an_entry_of_size_0(start):
    with pytest.raises(TraceError) as error:
        info(f"{AREA} vmap\n{start:#010x}-{start:#010x}       0 a+0x1/0x2 vmap\n")
    assert str(error.value) == (
        f"v:2: found {start:#x}-{start:#x} with size 0, expected end - start = size > 0; the kernel hides "
        "addresses: read it as root, or boot with no_hash_pointers"
    )


def test_empty_vmallocinfo():
    with pytest.raises(TraceError, match=r"^v: the file is empty, expected the text of /proc/vmallocinfo$"):
        info("")


def test_an_area_at_the_top_of_the_address_space_ends_at_zero():
    text = b"0xfffff000-0x00000000    4096 f+0x1/0x2 vmap\n"
    (entry,) = read_vmallocinfo(io.BytesIO(text))
    assert (entry.start, entry.end, entry.size) == (0xFFFFF000, 1 << 32, 4096)


@pytest.mark.parametrize(
    "line",
    [
        f"0x{'f' * 17}-0x{'f' * 17}    8192 vmap",
        f"0xf7403000-0xf7405000    {'9' * 5000} vmap",
        f"{AREA} a pages={'9' * 5000} vmalloc",
        f"{AREA} a phys=0x{'f' * 17} ioremap",
        f"{AREA} a pages=1 vmalloc N{'1' * 5000}=1",
        f"{AREA} a pages=1 vmalloc N0={'1' * 5000}",
    ],
    ids=["address", "size", "pages", "phys", "node", "pages of a node"],
)
def test_numbers_wider_than_any_word(line):
    with pytest.raises(TraceError) as error:
        info(f"{line}\n")
    advice = "the line is torn or was edited: read /proc/vmallocinfo again"
    assert str(error.value) == f"v:1: found {line[:60]!r}, {EXPECTED}; {advice}"
