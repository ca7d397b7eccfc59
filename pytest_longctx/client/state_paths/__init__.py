"""
State paths: the ways in which an engine builds or reuses a KV cache, each compared with a cold reading of the prompt.

    tasks                prompts with common beginnings, with a provable answer if the model is a probe
    reading              one reading on a path, its cold control, and the figures of both
    walk                 sends the readings of a path, then the controls
    evidence             walks a path, and summarises its readings
    concurrent_requests  paths on which requests share the steps of the engine
    pressure             paths on which the KV cache is full
    paths                the paths by name
"""

from pytest_longctx.client.state_paths.paths import PATHS, observe

__all__ = ["PATHS", "observe"]
