"""Tests that ship: the replay of golden bundles."""
