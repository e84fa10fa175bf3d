"""One random list of operations on every machine: the same placement, once the page size is divided out."""

import random

import numpy as np
import pytest

from vmcore.errors import OutOfVmallocSpace
from vmcore.flags import VM

RAM = 64 << 20
MOST_PAGES = 3000


class FirstFit:
    """Page numbers from VMALLOC_START up: each area and its guard page in the lowest gap that holds both."""

    def __init__(self):
        self.areas = {}

    def place(self, pages):
        at = 0
        for start, end in sorted(self.areas.items()):
            if start - at >= pages + 1:
                break
            at = end
        self.areas[at] = at + pages + 1
        return at


def operations(seed):
    """Yield (name, argument): sizes in pages, victims as a position in the order of allocation."""
    rng, live, used = random.Random(seed), [], 0
    for _ in range(600):
        name = rng.choice(["vmalloc", "vmalloc_user", "vmap", "get_vm_area", "free", "free", "write"])
        if name in ("free", "write"):
            if not live:
                continue
            at = rng.randrange(len(live))
            if name == "free":
                used -= live.pop(at)
            yield name, at
            continue
        pages = rng.choice([1, 1, 2, 3, 8, rng.randrange(1, 200)])
        if name == "vmap":
            pages = min(pages, 64)
        if used + pages < MOST_PAGES:
            used += pages
            live.append(pages)
            yield name, pages


@pytest.mark.parametrize("seed", range(6))
def test_placement_is_first_fit_in_pages(arch, kernel, seed):
    k, page, model = kernel(arch, ram=RAM), arch.page_size, FirstFit()
    lent = k.pages.alloc(64, 0xD0, -1)
    base, live = k.layout.vmalloc_start, []
    for name, n in operations(seed):
        if name == "free":
            kind, addr, at = live.pop(n)
            k.free_vm_area(k.find_vm_area(addr)) if kind == "get_vm_area" else (
                k.vunmap(addr) if kind == "vmap" else k.vfree(addr)
            )
            del model.areas[at]
            continue
        if name == "write":
            kind, addr, at = live[n]
            if kind != "get_vm_area":
                assert k.vwrite(addr, bytes([n % 251])) == 1
                assert k.vread(addr, 1) == bytes([n % 251])
            continue
        if name == "vmap":
            addr = k.vmap(lent[:n], n, VM.MAP, k.page_kernel)
        elif name == "get_vm_area":
            addr = k.get_vm_area(n * page, VM.MAP).addr
        else:
            addr = getattr(k, name)(n * page)
        at = model.place(n)
        assert addr == base + at * page
        live.append((name, addr, at))
    found = [((a.addr - base) // page, (a.addr + a.size - base) // page) for a in k.vmlist]
    assert found == sorted(model.areas.items())
    k.check()


def test_the_walk_is_as_long_in_pages_on_every_machine(arch, kernel):
    k, page = kernel(arch, ram=RAM), arch.page_size
    addresses = [k.vmalloc(n * page) for n in (1, 2, 3, 4, 5)]
    for n in (3, 1):
        k.vfree(addresses[n])
    k.vmalloc(4 * page)
    k.vmalloc(3 * page)
    with pytest.raises(OutOfVmallocSpace):
        k.get_vm_area(k.layout.vmalloc.size - page & -page, VM.MAP)
    # 0+1+2+3+4 to the end of the list, 4 and 2 to the areas freed, 3 to the hole of five pages, 4 past one too
    # small, 1 until the bound stops the last
    assert k.vmlist.nodes_visited == 10 + 4 + 2 + 3 + 4 + 1
    assert [(a.addr - k.layout.vmalloc_start) // page for a in k.vmlist] == [0, 5, 9, 14, 20]
    assert np.all(k.pages.allocated(np.concatenate([a.pages for a in k.vmlist])))
