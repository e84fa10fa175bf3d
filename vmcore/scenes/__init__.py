"""Short scenes that show the harm of a missing flush, sync or handler."""
