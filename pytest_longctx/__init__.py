"""A pytest plugin and conformance suite for long-context LLM serving."""

__version__ = "0.1.0"
