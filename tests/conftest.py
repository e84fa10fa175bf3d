"""Every machine: installed ones from the registry, and synthetic ones; ``VMCORE_ARCH=a,b`` narrows."""

import os

import pytest
from hypothesis import settings

from tests.support import synthetic
from vmcore.architecture import Architecture
from vmcore.dump import open_dump
from vmcore.errors import choices
from vmcore.kernel import Kernel
from vmcore.linking.registry import load

settings.register_profile("thorough", max_examples=2000, deadline=None)  # pytest --hypothesis-profile thorough

MACHINES = pytest.StashKey[dict[str, Architecture]]()


def pytest_configure(config):
    known = {**load().architectures, **{arch.name: arch for arch in synthetic.RECORDS}}
    wanted = [name.strip() for name in os.environ.get("VMCORE_ARCH", "").split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise pytest.UsageError(f"VMCORE_ARCH: unknown architecture {name!r}: {choices(name, known, 'valid')}")
    config.stash[MACHINES] = {name: known[name] for name in wanted or known}


def pytest_generate_tests(metafunc):
    marked = any("arch" in str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize"))
    if "arch" in metafunc.fixturenames and not marked:
        machines = metafunc.config.stash[MACHINES]
        metafunc.parametrize("arch", machines.values(), ids=machines)


@pytest.fixture(autouse=True)
def _no_choice_from_outside(monkeypatch):
    """What narrows the tests must not choose an architecture inside of them."""
    monkeypatch.delenv("VMCORE_ARCH", raising=False)


@pytest.fixture(scope="session")
def registry():
    """What is installed; loaded once."""
    return load()


@pytest.fixture
def kernel(registry):
    """Return a function that boots a kernel from a record or a name."""

    def boot(arch, *, listeners=(), **selection):
        return Kernel(arch, registry=registry, listeners=(*listeners, *synthetic.symbols(arch)), **selection)

    return boot


@pytest.fixture
def opened(tmp_path):
    """Return a function that opens bytes as a dump."""

    def opener(data, **options):
        path = tmp_path / "dump"
        path.write_bytes(data)
        return open_dump(path, **options)

    return opener
