"""Page tables, in simulated memory or in the saved memory of a real machine.

`pte` lays out a level and has the two walks: of one address, and of many. `linux` and `mmu` walk as Linux and as
the hardware do. `tables`, `clear`, `boot`, `stretches` and `ptes` write tables as Linux does. `rights`,
`mappings`, `runs` and `explain` interpret them.
"""
