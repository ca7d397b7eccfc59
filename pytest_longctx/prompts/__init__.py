"""
Prompts of an exact length, each kind its own short module.

    factory    what a test holds: prompt(10_000), prompt.natural("1M"), prompt.text("1M")
    token_ids  a prompt as token ids and its JSON; prompts that share a prefix
    needles    a fact in a haystack, the question at the end, the score, and whether an answer only repeats itself
    text       text that re-encodes to an exact count, alone or inside a chat template
    corpus     where text comes from
    tokenizer  a model's tokenizer
    cache      tokenised text on disk
"""

from pytest_longctx.prompts.factory import PromptFactory
from pytest_longctx.prompts.token_ids import LONGEST_TOKENS, Ids, Prompt, Sendable

__all__ = ["LONGEST_TOKENS", "Ids", "Prompt", "PromptFactory", "Sendable"]
