"""Formats of other tools, written from a run's results: one file for each workload."""
