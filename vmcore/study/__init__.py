"""Questions about a traced kernel that need no machine, only the choice of addresses."""
