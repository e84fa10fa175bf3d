"""The operating system: write files, unpack files, handle signals, and find touched memory."""
