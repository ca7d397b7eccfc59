"""
Prompts of an exact length, each kind its own short module.

    factory     what a test holds: prompt(10_000), prompt.natural("1M"), prompt.text("1M")
    ids         a prompt as token ids, and its JSON
    shared      prompts that share a prefix: turns of one conversation, users of one document
    needles     a fact in a haystack, the question at the end, and the score
    repetition  whether an answer only repeats itself
    exact       text that re-encodes to an exact count; chat does the same inside a chat template
    corpus      where text comes from; sentences makes it
    pieces      tokenising in pieces of bounded size, borders proved not to matter
    vocabulary  a model's tokenizer
    shelf       tokenised text on disk
    ahead       building while a server boots
"""

from pytest_longctx.prompts.factory import PromptFactory
from pytest_longctx.prompts.token_ids import LONGEST_TOKENS, Ids, Prompt, Sendable

__all__ = ["LONGEST_TOKENS", "Ids", "Prompt", "PromptFactory", "Sendable"]
