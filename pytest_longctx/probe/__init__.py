"""A model whose right answer is known at any prompt length, and its questions. See ``docs/explanation/probe.md``."""
