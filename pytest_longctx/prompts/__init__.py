"""
Prompts of an exact token count, with one module for each kind of prompt.

    factory    the object a test uses: prompt(10_000), prompt.natural("1M"), prompt.text("1M")
    token_ids  prompts as token ids and JSON; prompts with a common prefix
    needles    a hidden fact and its question, the score of an answer, detection of repetition
    chat_needles  the same fact and question as a chat message
    text       text of an exact token count, alone or inside a chat template
    corpus     sources of text
    tokenizer  tokenizer of a model
    cache      disk cache of tokenised text
"""

from pytest_longctx.prompts.factory import PromptFactory
from pytest_longctx.prompts.token_ids import LONGEST_TOKENS, Ids, Prompt, Sendable

__all__ = ["LONGEST_TOKENS", "Ids", "Prompt", "PromptFactory", "Sendable"]
