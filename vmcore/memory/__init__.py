"""The RAM of a simulated machine and who hands it out: banks, zones and small objects."""
