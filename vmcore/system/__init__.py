"""The operating system: files that are written, files that are packed, signals, and memory that was touched."""
