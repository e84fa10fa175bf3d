"""A machine is linked as a kernel is: weak, strong, wrapped; and events are bound where somebody listens."""

import numpy as np
import pytest
from attrs import fields

from vmcore import hookimpl
from vmcore.architecture import Architecture, Layout, Level
from vmcore.errors import KernelBug, LinkError, PluginError
from vmcore.linking import weak
from vmcore.linking.link import Events, Linked, assemble, bind_events, link
from vmcore.linking.registry import load

FRAME = [(12, 20, 12)]
LEVELS = [
    Level(name="pgd", shift=22, bits=10, entry_bytes=4, frame=FRAME, none_mask=0xFFFF_FFFF, table_flags=1),
    Level(name="pte", shift=12, bits=10, entry_bytes=4, frame=FRAME, none_mask=0xFFFF_FFFF),
]


def toy(name):
    return Architecture(
        name=name, description="", word_bits=32, page_shift=12, levels=LEVELS, page_kernel=1, zones=["NORMAL"],
        layout=lambda request: Layout(),
    )  # fmt: skip


TOY, OTHER = toy("toy"), toy("other")


def flush(kernel, cpu, start, end):
    kernel.append(("flush", cpu, start, end))


class Strong:
    """Defines flush_tlb_kernel_range for one architecture."""

    vmcore_api = (1, 0)

    def __init__(self, symbol, name="toy"):
        self.symbol, self.name = symbol, name

    @hookimpl
    def vmcore_flush_tlb_kernel_range(self, arch):
        return self.symbol if arch.name == self.name else None


class Around:
    """Decorates flush_tlb_kernel_range of everybody."""

    vmcore_api = (1, 0)

    def __init__(self, text):
        self.text = text

    @hookimpl(wrapper=True)
    def vmcore_flush_tlb_kernel_range(self, arch):
        inner = yield

        def around(kernel, cpu, start, end):
            kernel.append(f"{self.text} in")
            inner(kernel, cpu, start, end)
            kernel.append(f"{self.text} out")

        return around


def registry(**plugins):
    found = load(points=[])
    for name, plugin in plugins.items():
        found.add(plugin, name)
    return found


def resolve(arch=TOY, **plugins):
    return link(registry(**plugins).manager, arch).flush_tlb_kernel_range


def test_without_a_definition_every_symbol_is_weak():
    assert link(registry().manager, TOY) == Linked(
        flush_cache_vmap=weak.flush_nothing,
        flush_cache_vunmap=weak.flush_nothing,
        flush_tlb_kernel_range=weak.flush_nothing,
        vmalloc_sync_all=weak.vmalloc_sync_all,
        vmalloc_fault=weak.vmalloc_fault,
    )


def test_the_weak_symbols_do_nothing_and_give_up():
    linked = link(registry().manager, TOY)
    assert linked.flush_cache_vmap(None, 0, 0, 4096) is None
    assert linked.vmalloc_sync_all(None) is None
    assert linked.vmalloc_fault(None, 0, 0xF000_0000, 0) is False


def test_a_strong_definition_wins_where_it_answers():
    plugins = registry(strong=Strong(flush))
    assert link(plugins.manager, TOY).flush_tlb_kernel_range is flush
    assert link(plugins.manager, OTHER).flush_tlb_kernel_range is weak.flush_nothing
    assert link(plugins.manager, TOY).flush_cache_vmap is weak.flush_nothing


def test_an_implementation_may_leave_out_the_argument():
    class Everywhere:
        vmcore_api = (1, 0)

        @hookimpl
        def vmcore_flush_tlb_kernel_range(self):
            return flush

    assert resolve(everywhere=Everywhere()) is flush


def test_two_strong_definitions_are_an_error_that_names_both():
    with pytest.raises(LinkError) as caught:
        resolve(one=Strong(flush), two=Strong(flush))
    assert (caught.value.symbol, caught.value.architecture) == ("flush_tlb_kernel_range", "toy")
    assert caught.value.plugins == ["one", "two"]
    assert str(caught.value) == (
        "multiple definition of flush_tlb_kernel_range for 'toy': by plugins 'one' and 'two'. "
        "Block one of them, or make one a wrapper (@hookimpl(wrapper=True))"
    )


def test_two_definitions_for_different_architectures_are_none():
    plugins = registry(one=Strong(flush), two=Strong(print, "other"))
    assert link(plugins.manager, TOY).flush_tlb_kernel_range is flush


def test_a_wrapper_replaces_a_symbol_weak_or_strong():
    class Replaces:
        vmcore_api = (1, 0)

        @hookimpl(wrapper=True)
        def vmcore_flush_tlb_kernel_range(self, arch):
            yield
            return flush

    assert resolve(mine=Replaces()) is flush
    assert resolve(mine=Replaces(), strong=Strong(lambda kernel, cpu, start, end: None)) is flush


def test_wrappers_nest_the_last_registered_outside():
    log = []
    resolve(strong=Strong(flush), first=Around("first"), second=Around("second"))(log, 1, 0x1000, 0x3000)
    assert log == ["second in", "first in", ("flush", 1, 0x1000, 0x3000), "first out", "second out"]


def test_a_wrapper_decorates_the_weak_symbol_too():
    log = []
    resolve(around=Around("only"))(log, 0, 0, 0)
    assert log == ["only in", "only out"]


WANTED = "expected a callable flush_tlb_kernel_range(kernel, cpu, start, end)"


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        (3, f"its flush_tlb_kernel_range for 'toy' is 3, {WANTED}"),
        (lambda kernel: None, f"{WANTED}: too many positional arguments"),
        (lambda kernel, cpu, start, end, more: None, f"{WANTED}: missing a required argument: 'more'"),
        (lambda kernel, *, cpu=0, start=0, end=0: None, f"{WANTED}: too many positional arguments"),
        (min, f"{WANTED}: no signature found for builtin <built-in function min>"),
    ],
)
def test_a_symbol_that_cannot_be_called_names_its_plugin(symbol, expected):
    with pytest.raises(PluginError) as caught:
        resolve(bad=Strong(symbol), around=Around("fine"))
    assert caught.value.plugin == "bad"
    assert caught.value.cause.endswith(expected)


def test_the_other_symbols_have_their_own_arguments():
    class Sync:
        vmcore_api = (1, 0)

        @hookimpl
        def vmcore_vmalloc_sync_all(self, arch):
            return flush

    with pytest.raises(PluginError) as caught:
        link(registry(bad=Sync()).manager, TOY)
    assert "expected a callable vmalloc_sync_all(kernel): missing a required argument" in caught.value.cause


def test_a_wrapper_that_forgets_to_return_is_named():
    class Forgets:
        vmcore_api = (1, 0)

        @hookimpl(wrapper=True)
        def vmcore_flush_tlb_kernel_range(self, arch):
            yield

    with pytest.raises(PluginError) as caught:
        resolve(strong=Strong(flush), forgets=Forgets())
    assert caught.value.plugin == "forgets"
    assert caught.value.cause == f"its flush_tlb_kernel_range for 'toy' is None, {WANTED}"


def test_a_hook_that_raises_is_named():
    class Raises:
        vmcore_api = (1, 0)

        @hookimpl
        def vmcore_flush_tlb_kernel_range(self, arch):
            raise KeyError(arch.name)

    with pytest.raises(PluginError) as caught:
        resolve(bad=Raises())
    assert caught.value.plugin == "bad"
    assert caught.value.cause == "asked for flush_tlb_kernel_range of 'toy', it raised KeyError: 'toy'"


def test_of_two_wrappers_the_one_that_fails_is_named():
    class Forgets:
        vmcore_api = (1, 0)

        @hookimpl(wrapper=True)
        def vmcore_flush_tlb_kernel_range(self, arch):
            yield

    for order in (("forgets", "fine"), ("fine", "forgets")):
        plugins = {"forgets": Forgets(), "fine": Around("fine")}
        with pytest.raises(PluginError) as caught:
            resolve(strong=Strong(flush), **{name: plugins[name] for name in order})
        assert caught.value.plugin == "forgets"


# ---- a whole machine


class Evil:
    """Fails at link time for every architecture, and brings one of its own."""

    vmcore_api = (1, 0)

    @hookimpl
    def vmcore_architectures(self):
        return [toy("evils")]

    @hookimpl
    def vmcore_flush_tlb_kernel_range(self, arch):
        raise OSError("no\nfloppy")

    @hookimpl
    def vmcore_printk(self, line):
        raise AssertionError("a plugin that is left out hears nothing")


class EvilWrapper:
    """Fails around everybody's symbol."""

    vmcore_api = (1, 0)

    @hookimpl(wrapper=True)
    def vmcore_flush_tlb_kernel_range(self, arch):
        yield
        raise OSError("no\nfloppy")


class Forgets:
    """Returns nothing from a wrapper."""

    vmcore_api = (1, 0)

    @hookimpl(wrapper=True)
    def vmcore_flush_tlb_kernel_range(self, arch):
        yield


FLOPPY = "asked for flush_tlb_kernel_range of 'toy', it raised OSError: no floppy"


@pytest.mark.parametrize(
    ("plugin", "cause"),
    [
        (Evil(), FLOPPY),
        (EvilWrapper(), FLOPPY),
        (Forgets(), f"its flush_tlb_kernel_range for 'toy' is None, {WANTED}"),
        (Strong(3), f"its flush_tlb_kernel_range for 'toy' is 3, {WANTED}"),
    ],
)
def test_a_plugin_that_fails_for_a_strangers_architecture_is_left_out(plugin, cause):
    found = registry(around=Around("fine"))
    found.add(plugin, "evil", "evil-plugin 6.66")
    linked, events, notes = assemble(found, TOY)
    log = []
    linked.flush_tlb_kernel_range(log, 0, 0, 0)
    assert log == ["fine in", "fine out"]
    assert events.printk is None
    assert notes == (f"<4>vmcore: plugin 'evil' left out: {cause}\n",)
    error = found.broken["evil"]
    assert (error.plugin, error.distribution, error.cause) == ("evil", "evil-plugin 6.66", cause)
    assert error.module == type(plugin).__name__


def test_two_plugins_that_fail_are_both_left_out():
    found = registry(evil=Evil(), worse=EvilWrapper(), strong=Strong(flush))
    linked, _, notes = assemble(found, TOY)
    assert linked.flush_tlb_kernel_range.__wrapped__ is flush
    assert sorted(found.broken) == ["evil", "worse"]
    assert len(notes) == 2


def test_a_plugin_that_fails_for_the_architecture_it_brings_is_an_error():
    found = registry(evil=Evil())
    with pytest.raises(PluginError) as caught:
        assemble(found, found.get("evils"))
    assert (caught.value.plugin, caught.value.module) == ("evil", "Evil")
    assert found.broken == {}


def test_a_listener_that_fails_at_link_time_is_an_error():
    found = registry(strong=Strong(flush))
    with pytest.raises(PluginError) as caught:
        assemble(found, TOY, [Forgets()])
    who = (caught.value.plugin, caught.value.distribution, caught.value.module)
    assert who == ("listener 0", "given by the program", "Forgets")
    assert found.broken == {}


def test_two_strong_definitions_stay_an_error_of_the_linker():
    with pytest.raises(LinkError):
        assemble(registry(one=Strong(flush), two=Strong(flush)), TOY)


def test_a_symbol_that_raises_names_who_defines_and_who_wraps_it():
    def broken(kernel, cpu, start, end):
        raise KeyError(cpu)

    found = registry(strong=Strong(broken), other=Strong(flush, "other"), around=Around("fine"))
    linked, _, _ = assemble(found, TOY)
    with pytest.raises(PluginError) as caught:
        linked.flush_tlb_kernel_range([], 7, 0, 0)
    error = caught.value
    assert (error.plugin, error.module) == ("strong,around", "Strong, Around")
    assert error.distribution == "given by the program, given by the program"
    assert error.cause == "its flush_tlb_kernel_range raised KeyError: 7"
    assert isinstance(error.__cause__, KeyError)


def test_weak_symbols_are_handed_on_as_they_are():
    linked, _, notes = assemble(registry(), TOY)
    assert (linked, notes) == (link(registry().manager, TOY), ())


# ---- events


def test_a_listener_that_raises_is_named():
    class Listener:
        vmcore_api = (1, 0)

        @hookimpl
        def vmcore_kfree(self, handle):
            if handle is None:
                raise KernelBug("x", "y")
            raise ValueError(f"two\nlines {handle}")

    _, events, _ = assemble(registry(bad=Listener()), TOY)
    with pytest.raises(PluginError) as caught:
        events.kfree(handle=32)
    assert (caught.value.plugin, caught.value.module) == ("bad", "Listener")
    assert caught.value.cause == "its vmcore_kfree raised ValueError: two lines 32"
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(KernelBug):
        events.kfree(handle=None)


def test_without_listeners_no_event_is_bound():
    events = bind_events(registry(strong=Strong(flush)).manager)
    assert {f.name: getattr(events, f.name) for f in fields(Events)} == dict.fromkeys(
        (f.name for f in fields(Events)), None
    )


def test_only_events_with_a_listener_are_bound_and_all_listeners_hear():
    heard = []

    class Listener:
        vmcore_api = (1, 0)

        def __init__(self, name):
            self.name = name

        @hookimpl
        def vmcore_pages_freed(self, frames):
            heard.append((self.name, frames.tolist()))

    events = bind_events(registry(one=Listener("one"), two=Listener("two")).manager)
    assert [f.name for f in fields(Events) if getattr(events, f.name) is not None] == ["pages_freed"]
    events.pages_freed(frames=np.array([3, 1]))
    assert heard == [("two", [3, 1]), ("one", [3, 1])]


def test_a_listener_may_take_fewer_arguments():
    heard = []

    class Listener:
        vmcore_api = (1, 0)

        @hookimpl
        def vmcore_area_added(self, size):
            heard.append(size)

    events = bind_events(registry(one=Listener()).manager)
    events.area_added(address=0xF000_0000, size=8192, flags=2)
    assert heard == [8192]
