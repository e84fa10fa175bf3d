"""A listener that writes down every event of a kernel, arrays as lists."""

from vmcore.hookspecs import hookimpl


class Recorder:
    """Hold events as (name, arguments in the order of the contract ...)."""

    def __init__(self):
        self.events = []

    def of(self, *names):
        """Return the events of these names."""
        return [event for event in self.events if event[0] in names]

    def take(self):
        """Return what was heard so far, and forget it."""
        heard, self.events = self.events, []
        return heard

    @hookimpl
    def vmcore_kmalloc(self, size, node, gfp, handle):
        self.events.append(("kmalloc", size, node, gfp, handle))

    @hookimpl
    def vmcore_kfree(self, handle):
        self.events.append(("kfree", handle))

    @hookimpl
    def vmcore_pages_allocated(self, node, gfp, zone, frames, failed):
        self.events.append(("pages_allocated", node, gfp, zone, frames.tolist(), failed))

    @hookimpl
    def vmcore_pages_freed(self, frames):
        self.events.append(("pages_freed", frames.tolist()))

    @hookimpl
    def vmcore_table_allocated(self, level, address, table):
        self.events.append(("table_allocated", level, address, table))

    @hookimpl
    def vmcore_range_mapped(self, address, entries, frames):
        self.events.append(("range_mapped", address, entries.tolist(), frames.tolist()))

    @hookimpl
    def vmcore_range_cleared(self, address, entries):
        self.events.append(("range_cleared", address, entries.tolist()))

    @hookimpl
    def vmcore_flush(self, flush):
        self.events.append(("flush", flush.symbol, flush.start, flush.end))

    @hookimpl
    def vmcore_sync(self):
        self.events.append(("sync",))

    @hookimpl
    def vmcore_page_inserted(self, address, frames, errno):
        self.events.append(("page_inserted", address, frames.tolist(), errno))

    @hookimpl
    def vmcore_area_added(self, address, size, flags):
        self.events.append(("area_added", address, size, flags))

    @hookimpl
    def vmcore_area_removed(self, address, size, flags):
        self.events.append(("area_removed", address, size, flags))

    @hookimpl
    def vmcore_printk(self, line):
        self.events.append(("printk", line))

    @hookimpl
    def vmcore_warn(self, condition, function):
        self.events.append(("warn", condition, function))

    @hookimpl
    def vmcore_bug(self, condition, function):
        self.events.append(("bug", condition, function))

    @hookimpl
    def vmcore_oops(self, address, access):
        self.events.append(("oops", address, access))
