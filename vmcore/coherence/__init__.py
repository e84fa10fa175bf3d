"""The coherence checker: which flush or sync is missing."""
