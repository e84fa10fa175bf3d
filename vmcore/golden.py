"""``python -m vmcore.golden FILE...``: replay golden bundles, see `vmcore.testing.golden`."""

from vmcore.system.signals import end_on_signals
from vmcore.testing.golden import main

__all__ = ["main"]

if __name__ == "__main__":
    end_on_signals()
    main()
