"""Model with a known correct answer at any length, and its questions. See ``docs/explanation/probe.md``."""
