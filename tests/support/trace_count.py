"""Count a trace by a plain walk over its text, independent of vmcore, to check the report of a replay."""

from dataclasses import dataclass


@dataclass
class TraceCount:
    """Counts of a whole trace; areas and bytes are those of the traced kernel, guard pages included."""

    allocs: int = 0  # alloc_vmap_area with failed=0
    failed: int = 0  # alloc_vmap_area with failed=1
    frees: int = 0  # all of them
    unknown_frees: int = 0  # those of addresses that nobody holds
    purges: int = 0
    purged: int = 0  # sum of num_purged
    peak_areas: int = 0
    peak_areas_line: int = 0  # first line at which it was reached
    peak_bytes: int = 0
    peak_bytes_line: int = 0
    end_areas: int = 0
    end_bytes: int = 0


def count_trace(lines):
    """Walk over lines of text, ``trace`` or ``trace-cmd report``, and count."""
    count, live, held = TraceCount(), {}, 0
    for number, line in enumerate(lines, 1):
        words = line.replace("va_start: ", "va_start=").split()
        event = next((word for word in words if word.endswith("_area:") or "_vmap_area_" in word), None)
        fields = dict(word.split("=", 1) for word in words if "=" in word)
        if line.startswith("#") or event is None:
            continue
        if event == "alloc_vmap_area:" and fields["failed"] == "1":
            count.failed += 1
        elif event == "alloc_vmap_area:":
            count.allocs += 1
            live[int(fields["va_start"])] = int(fields["size"])
            held += int(fields["size"])
        elif event == "free_vmap_area_noflush:":
            count.frees += 1
            size = live.pop(int(fields["va_start"], 16), None)
            count.unknown_frees += size is None
            held -= size or 0
        elif event == "purge_vmap_area_lazy:":
            count.purges += 1
            count.purged += int(fields["num_purged"])
        if len(live) > count.peak_areas:
            count.peak_areas, count.peak_areas_line = len(live), number
        if held > count.peak_bytes:
            count.peak_bytes, count.peak_bytes_line = held, number
    count.end_areas, count.end_bytes = len(live), held
    return count
