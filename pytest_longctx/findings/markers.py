"""Markers that select a run: by context length and by theme."""

from collections.abc import Mapping
from types import MappingProxyType

LENGTHS: Mapping[str, int] = MappingProxyType(
    {
        "ten_k": 10_000,
        "hundred_k": 100_000,
        "half_million": 500_000,
        "one_million": 1_000_000,
        "two_million": 2_000_000,
        "five_million": 5_000_000,
        "ten_million": 10_000_000,
    }
)
"""Length markers, and the length of each in tokens; a finding of 1.9M to 2.2M tokens is two_million."""

THEMES: Mapping[str, str] = MappingProxyType(
    {
        "first_run": "an introduction to the suite in a few boots: the first command of the README",
        "smoke": "the server answers at all",
        "context_length": "a prompt of this length is served, and counted exactly",
        "throughput": "how fast a prompt is read and an answer written",
        "fp8": "FP8 KV-cache dtypes: which are served, refused or fall back",
        "probe_family": "the probe of one attention family, each a boot of its own",
        "rare_dtype": "KV-cache dtypes that no document names, each a boot of its own",
        "expected_oom": "configurations that must run out of memory or be refused",
        "limits": "the longest request that is served, and the first that is refused",
        "retrieval": "the answer depends on something far back, and is right",
        "prefix_cache": "what a cache may answer, and what it must not",
        "concurrency": "several requests at once",
        "accuracy": "known questions are answered as well as documented",
        "boot": "the server comes up, with this capacity",
        "claims": "what arithmetic says of a published figure; boots nothing",
    }
)
"""Theme markers, and the description of each."""
