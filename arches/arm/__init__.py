"""The ARM family: ARMv5, ARMv7, and ARMv7 as later kernels lay it out."""
