"""
Attacks on the client, the readers and the way out: hostile servers, malformed files, fuzzers.

They are part of every run. ``LONGCTX_FUZZ_EXAMPLES=20000 pytest tests/hostile`` fuzzes for longer, and ``LONGCTX_KILLS=100`` kills
more often.
"""

import os

EXAMPLES = int(os.environ.get("LONGCTX_FUZZ_EXAMPLES", "200"))
"""Examples for each fuzzer."""
KILLS = int(os.environ.get("LONGCTX_KILLS", "4"))
"""Kills at random moments, one in each phase of a run in turn."""
KILLS_SEED = int(os.environ.get("LONGCTX_KILLS_SEED", "1"))
KILLS_RECORD = os.environ.get("LONGCTX_KILLS_RECORD")
"""A file to write each kill to, as JSON."""
SEED = int(os.environ.get("LONGCTX_FUZZ_SEED", "1"))
"""The seed of damaged inputs."""
