"""The C files: mm/vmalloc.c in its order."""
