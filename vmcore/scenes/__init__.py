"""Short scenes that show what breaks without a flush, a sync or a handler."""
