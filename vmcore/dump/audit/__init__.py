"""The areas of /proc/vmallocinfo against the page tables."""
