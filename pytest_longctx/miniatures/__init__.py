"""
Miniatures: tiny servers with vLLM's API, either correct or with one named fault.

The miniatures test the suite's own logic on any laptop in seconds: each fault must be caught by the check that names it.
They give no evidence about a real engine. ``python -m pytest_longctx.miniatures --help`` shows how to start one.
"""
