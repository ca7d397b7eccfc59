"""A model whose right answer is known at any length, and questions for it: see ``docs/explanation/probe.md``."""
