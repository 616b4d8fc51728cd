"""Tests of the pruning library."""
