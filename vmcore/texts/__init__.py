"""Texts that kernels print: traces, /proc/vmallocinfo and VMCOREINFO, read and written."""
