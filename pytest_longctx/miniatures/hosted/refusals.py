"""
Refusals of prompts that are too long, as providers and engines write them: status and body.

The texts are from public reports and from the engines' sources (2023 to 2026). An OpenAI client parses all but the flat
ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class OverLength:
    """The lengths of a request that is too long, in tokens. *asked* is None if the client set no maximum for the answer."""

    limit: int
    prompt: int
    asked: int | None
    model: str = "miniature"

    @property
    def answer(self) -> int:
        """Number of answer tokens that the refused request asked for; 0 if it set none."""
        return self.asked or 0

    @property
    def total(self) -> int:
        """Number of tokens of the refused request: prompt and answer together."""
        return self.prompt + self.answer


Body = dict[str, Any] | list[Any] | str
Refusal = tuple[int, Body]


def error(message: str, kind: str = "invalid_request_error", param: str | None = None, code: Any = None) -> Body:
    """Return the error body of a refusal in OpenAI's wording."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def openai(it: OverLength) -> Refusal:
    """Return the refusal by OpenAI's chat completions."""
    if it.prompt > it.limit or not it.asked:
        seen, advice = f"your messages resulted in {it.prompt} tokens", "the length of the messages"
    else:
        seen = f"you requested {it.total} tokens ({it.prompt} in the messages, {it.answer} in the completion)"
        advice = "the length of the messages or completion"
    text = f"This model's maximum context length is {it.limit} tokens. However, {seen}. Please reduce {advice}."
    return 400, error(text, param="messages", code="context_length_exceeded")


def openai_without_numbers(_it: OverLength) -> Refusal:
    """Return the refusal of a prompt that is too long by OpenAI's newer models, and the Responses API."""
    text = "Your input exceeds the context window of this model. Please adjust your input and try again."
    return 400, error(text, param="input", code="context_length_exceeded")


def vllm(it: OverLength) -> Refusal:
    """Return the refusal of a prompt that is too long by vLLM from 0.12 on."""
    head = f"This model's maximum context length is {it.limit} tokens. However, "
    if it.prompt >= it.limit or not it.asked:
        text = head + f"your request has {it.prompt} input tokens. Please reduce the length of the input messages."
    else:
        text = (
            head + f"you requested {it.answer} output tokens and your prompt contains {it.prompt} input tokens, for a "
            f"total of {it.total} tokens. Please reduce the length of the input prompt or the number of requested output tokens."
        )
    return 400, error(text, "BadRequestError", "input_tokens", 400)


def sglang(it: OverLength) -> Refusal:
    """Return the refusal of a prompt that is too long by SGLang: a flat body."""
    if it.prompt >= it.limit:
        text = f"The input ({it.prompt} tokens) is longer than the model's context length ({it.limit} tokens)."
    else:
        text = (
            f"Requested token count exceeds the model's maximum context length of {it.limit} tokens. You requested a "
            f"total of {it.total} tokens: {it.prompt} tokens from the input messages and {it.answer} tokens for the completion."
        )
    return 400, {"object": "error", "message": text, "type": "BadRequestError", "param": None, "code": 400}


def tgi(it: OverLength) -> Refusal:
    """
    Return the refusal of a prompt that is too long by Text Generation Inference: status 422, and a text instead of an
    object.
    """
    text = (
        f"Input validation error: `inputs` tokens + `max_new_tokens` must be <= {it.limit}. "
        f"Given: {it.prompt} `inputs` tokens and {it.answer} `max_new_tokens`"
    )
    return 422, {"error": text, "error_type": "validation"}


def llamacpp(it: OverLength) -> Refusal:
    """Return the refusal of a prompt that is too long by the llama.cpp server."""
    text = f"request ({it.prompt} tokens) exceeds the available context size ({it.limit} tokens), try increasing it"
    counts = {"n_prompt_tokens": it.prompt, "n_ctx": it.limit}
    return 400, {"error": {"code": 400, "message": text, "type": "exceed_context_size_error", **counts}}


def anthropic(it: OverLength) -> Refusal:
    """Return the refusal of a prompt that is too long by Anthropic's Messages API and gateways to it."""
    if it.prompt > it.limit:
        text = f"prompt is too long: {it.prompt} tokens > {it.limit} maximum"
    else:
        text = (
            f"input length and `max_tokens` exceed context limit: {it.prompt} + {it.answer} > {it.limit}, "
            "decrease input length or `max_tokens` and try again"
        )
    return 400, {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": text},
        "request_id": "req_011miniature",
    }


def moonshot(it: OverLength) -> Refusal:
    """Return the refusal of a prompt that is too long by Moonshot: the error has neither ``param`` nor ``code``."""
    text = f"Invalid request: Your request exceeded model token limit: {it.limit} (requested: {it.total})"
    return 400, {"error": {"message": text, "type": "invalid_request_error"}}


def google(it: OverLength) -> Refusal:
    """Return the refusal of a prompt that is too long by Google's OpenAI-compatible endpoint: a list."""
    text = f"The input token count ({it.prompt}) exceeds the maximum number of tokens allowed ({it.limit})."
    return 400, [{"error": {"code": 400, "message": text, "status": "INVALID_ARGUMENT"}}]


def mistral(it: OverLength) -> Refusal:
    """Return the refusal of a prompt that is too long by Mistral."""
    text = f"Prompt contains {it.prompt} tokens and 0 draft tokens, too large for model with {it.limit} maximum context length"
    return 400, {"object": "error", "message": text, "type": "invalid_request_prompt", "param": None, "code": "3051"}


def xai(it: OverLength) -> Refusal:
    """Return the refusal of a prompt that is too long by xAI: the error is a text."""
    text = f"This model's maximum prompt length is {it.limit} but the request contains {it.total} tokens."
    return 400, {"code": "invalid-argument", "error": text}


def openrouter(it: OverLength) -> Refusal:
    """Return the refusal of a prompt that is too long by OpenRouter, whose wording says ``about``."""
    text = (
        f"This endpoint's maximum context length is {it.limit} tokens. However, you requested about {it.total} tokens "
        f"({it.prompt} of text input, {it.answer} in the output). Please reduce the length of either one, or use the "
        '"middle-out" transform to compress your prompt automatically.'
    )
    return 400, {"error": {"message": text, "code": 400, "metadata": {"provider_name": None}}}


def litellm(it: OverLength) -> Refusal:
    """Return the refusal of a prompt that is too long by LiteLLM's proxy, whose message contains the engine's text."""
    inner = openai(it)[1]
    assert isinstance(inner, dict)
    text = (
        "litellm.ContextWindowExceededError: litellm.BadRequestError: ContextWindowExceededError: OpenAIException - "
        f"{inner['error']['message']}\nmodel={it.model}. context_window_fallbacks=None. fallbacks=None."
    )
    return 400, error(text, code="400")


def gateway(it: OverLength) -> Refusal:
    """
    Return the refusal of a prompt that is too long by a gateway, whose error body contains the engine's error body as
    text.
    """
    return 400, {
        "detail": f'Upstream error 400: {{"error": {{"message": "maximum context length is {it.limit:,} tokens"}}}}'
    }


REFUSALS: Mapping[str, Callable[[OverLength], Refusal]] = MappingProxyType(
    {
        "openai": openai,
        "openai-without-numbers": openai_without_numbers,
        "vllm": vllm,
        "sglang": sglang,
        "tgi": tgi,
        "llamacpp": llamacpp,
        "anthropic": anthropic,
        "moonshot": moonshot,
        "google": google,
        "mistral": mistral,
        "xai": xai,
        "openrouter": openrouter,
        "litellm": litellm,
        "gateway": gateway,
    }
)
"""Every wording by its name."""
