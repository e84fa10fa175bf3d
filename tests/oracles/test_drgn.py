"""drgn reads exported cores of a 64-bit x86 machine through their page tables, without debug information."""

import numpy as np
import pytest

from vmcore.flags import VM

drgn = pytest.importorskip("drgn", reason="drgn is not installed (pip install vmcore[interop])")


@pytest.fixture
def saved(kernel, tmp_path):
    """Return a kernel, its areas, and a drgn program that has opened what it saved."""

    def save(**selection):
        k = kernel("x86_64", **selection)
        rng = np.random.default_rng(8)
        areas = []
        for size in rng.integers(1, 200, 60).tolist():
            areas.append(k.vmalloc(size * 4096))
            k.vwrite(areas[-1], rng.bytes(size * 4096))
        for address in areas[::3]:
            k.vfree(address)
        once = k.pages.alloc(1, 0xD0, -1)
        k.memory.write(int(once[0]) << 12, rng.bytes(4096))
        repeated = k.vmap(np.repeat(once, 512), 512, int(VM.MAP), k.page_kernel)
        k.save(tmp_path / "ram.elf")
        program = drgn.Program()
        program.set_core_dump(tmp_path / "ram.elf")
        return k, repeated, program

    return save


@pytest.mark.parametrize("ram", ["256M", "0-512M,5G-6G"])
def test_2000_random_addresses_have_the_same_bytes_or_fault(saved, ram):
    k, _, program = saved(ram=ram)
    start = k.layout.vmalloc_start
    end = max(area.addr + area.size for area in k.vmlist) + (1 << 20)
    offsets = np.random.default_rng(9).integers(0, (end - start) // 8, 2000) * 8
    addresses = np.uint64(start) + offsets.astype(np.uint64)
    mapped = 0
    for address in addresses.tolist():
        frame = k.vmalloc_to_pfn(address)
        if frame is None:
            with pytest.raises(drgn.FaultError, match="address is not mapped"):
                program.read(address, 8)
        else:
            mapped += 1
            assert program.read(address, 8) == k.memory.read((frame << 12) + address % 4096, 8)
    assert 500 < mapped < 1900
    assert program.platform.arch == drgn.Architecture.X86_64


def test_one_frame_mapped_512_times(saved):
    k, repeated, program = saved(ram="256M")
    page = k.vread(repeated, 4096)
    assert any(page)
    for n in range(512):
        assert program.read(repeated + n * 4096, 4096) == page
    assert program.read(repeated, 512 * 4096) == page * 512
    with pytest.raises(drgn.FaultError):
        program.read(repeated + 512 * 4096, 1)
