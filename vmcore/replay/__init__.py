"""Replay the vmalloc events of a traced kernel on another machine."""

from vmcore.replay.run import replay

__all__ = ["replay"]
