"""Read and write texts that kernels print: traces, /proc/vmallocinfo and VMCOREINFO."""
