"""Chat messages whose rendering under the model's own chat template has an exact length."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Final

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts.corpus import Source
from pytest_longctx.prompts.text import exact_text
from pytest_longctx.prompts.tokenizer import Vocabulary, needed

Message = dict[str, str]
Render = Callable[[list[Message]], str]
"""Messages as the model will see them, the opening of its answer included."""

_MARK: Final = "longctx stands here"


@dataclass(frozen=True, slots=True, eq=False)
class Chat:
    """Messages, and their proved length in tokens once they are rendered."""

    path: ClassVar = "/v1/chat/completions"
    member: ClassVar = "messages"
    messages: tuple[Message, ...] = field(repr=False)
    tokens: int
    seed: int
    key: str

    def __len__(self) -> int:
        return self.tokens

    @property
    def json_bytes(self) -> int:
        """How many bytes `json_chunks` yields in all."""
        return sum(len(chunk) for chunk in self.json_chunks())

    def json_chunks(self) -> Iterator[bytes]:
        """The messages as a JSON array."""
        yield json.dumps(self.messages).encode()


def renderer(where: str, *, download: bool = False) -> Render:
    """The chat template of the model at *where*, by the ``transformers`` package. Raises `PromptError`."""
    try:
        tokenizer = needed("transformers").AutoTokenizer.from_pretrained(where, local_files_only=not download)
    except PromptError:
        raise
    except Exception as problem:  # noqa: BLE001 - it raises many kinds for a folder it cannot read
        raise PromptError(f"the chat template of {where} cannot be had: {str(problem).splitlines()[0]:.200}") from None
    if not tokenizer.chat_template:
        raise PromptError(
            f"the model at {where} has no chat template\n  try      prompts of text or ids, sent to /v1/completions"
        )

    def render(messages: list[Message]) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    return render


def exact_messages(
    vocabulary: Vocabulary,
    render: Render,
    source: Source,
    tokens: int,
    *,
    system: str = "",
    opening: str = "",
    context: int | None = None,
) -> tuple[Message, ...]:
    """
    One user's message, after *system* where there is one, that renders to exactly *tokens* tokens.

    What the template puts around it is measured by rendering once; the whole is proved as `exact_text` does. No special token is
    added to a rendered template, as servers do. Raises `PromptError`.
    """
    head: list[Message] = [{"role": "system", "content": system}] if system else []
    before, mark, after = render([*head, {"role": "user", "content": _MARK}]).partition(_MARK)
    if not mark or _MARK in after:
        raise PromptError(
            "the chat template does not repeat a user's message once and unchanged: no exact length can be had"
        )
    frame: dict[str, str] = {"opening": opening, "before": before, "after": after}
    content = exact_text(vocabulary, source, tokens, **frame, special=False, context=context)
    messages = (*head, {"role": "user", "content": content})
    if render(list(messages)) != before + content + after:
        raise PromptError("the chat template changes with what is said: no exact length can be had")
    return messages
