"""
Miniatures: tiny servers in vLLM's dialect, honest or with one named fault each.

They prove the suite's own logic, on any laptop, in seconds: each fault must be caught by the check that names it. They
prove nothing about a real engine. ``python -m pytest_longctx.miniatures --help`` starts one.
"""
