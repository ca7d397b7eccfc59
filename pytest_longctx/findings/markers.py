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
"""Length markers, and the length of each in tokens. A finding of 1.9M to 2.2M tokens is two_million."""

THEMES: Mapping[str, str] = MappingProxyType(
    {
        "first_run": "an introduction to the suite in a few boots: the first command of the README",
        "smoke": "the server answers a short request",
        "context_length": "a prompt of this length is served and its tokens are counted exactly",
        "throughput": "throughput of prefill and decode",
        "fp8": "FP8 KV-cache dtypes: which are served, refused or fall back",
        "rare_dtype": "KV-cache dtypes that no document names; each needs its own boot",
        "probe_family": "the probe of one attention family; each needs its own boot",
        "expected_oom": "boots that must fail for lack of memory: of a device, of the host, or of the KV cache",
        "expected_failure": "boots that must fail for another reason than memory: an unknown flag, a failed assertion",
        "limits": "the longest served request and the shortest refused one",
        "retrieval": "the answer depends on a distant part of the context and is correct",
        "trained": "what a model with trained weights knows and finds; a small one: longctx model smollm2",
        "ruler": "the thirteen tasks of RULER, with its published scores; its texts: longctx data ruler",
        "drift": "how far predictions move with a KV-cache dtype, a backend or a version, and whether answers repeat",
        "state_paths": "every way to make a KV cache gives the same answer as a cold request",
        "prefix_cache": "what a prefix cache must and must not serve",
        "concurrency": "several requests at once",
        "accuracy": "benchmark questions are answered as accurately as documented",
        "boot": "the server boots with this capacity",
        "certificate": "what an endpoint behind a URL really serves, as longctx certify checks it",
        "claims": "published figures checked by arithmetic, without a boot",
    }
)
"""Theme markers, and the description of each."""
