"""The prompt of one RULER task: token ids of its text, the text, or a message through a chat template."""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from pytest_longctx.errors import NoExactTextError, PromptError, unknown
from pytest_longctx.prompts import text as prompt_text
from pytest_longctx.prompts.ruler import documents, niah, scoring, tracking, words
from pytest_longctx.prompts.ruler.exact_length import Room
from pytest_longctx.prompts.ruler.niah import Written
from pytest_longctx.prompts.ruler.published_data import Material
from pytest_longctx.prompts.ruler.tasks import TASKS, Task
from pytest_longctx.prompts.token_ids import Prompt, Sendable
from pytest_longctx.prompts.tokenizer import ModelTokenizer

Form = Literal["ids", "text", "chat"]


_DRAWN: Final = 8
"""Texts drawn before a length is given up."""


@dataclass(frozen=True, slots=True)
class Posed:
    """A prompt of a RULER task, and the texts that are expected in the answer."""

    task: Task
    prompt: Sendable
    expected: tuple[str, ...]
    depths: tuple[float, ...] = ()
    """Places of the hidden facts of the ``niah`` tasks, as shares of the context."""
    text: str = field(default="", repr=False)

    def score(self, answer: str) -> float:
        """Return the published score of *answer*, from 0 to 1."""
        return scoring.score(answer, self.expected, self.task.scored)


def build(
    name: str,
    material: Material,
    vocabulary: ModelTokenizer,
    tokens: int,
    rng: np.random.Generator,
    form: Form = "ids",
    *,
    render: prompt_text.Render | None = None,
    context: int | None = None,
    origin: tuple[int, str] = (0, ""),
) -> Posed:
    """
    Return a new prompt of the task *name* with exactly *tokens* tokens. A chat needs *render*. *origin* is recorded in
    the prompt.

    Ids begin with BOS if the tokenizer adds one. Tokens that the tokenizer adds to a text are counted, as in other
    prompts. Raises `PromptError`.
    """
    if name not in TASKS:
        raise PromptError(unknown("RULER task", name, TASKS))
    task = TASKS[name]
    if form == "ids":
        lead = vocabulary.lead
        written = write(task, material, Room(vocabulary, tokens - int(lead.size), special=False), rng)
        ids = np.concatenate((lead, vocabulary.ids(written.text)))
        ids.flags.writeable = False
        return Posed(task, Prompt(ids, *origin), written.expected, written.depths, written.text)
    if form == "text":
        written = write(task, material, Room(vocabulary, tokens, context=context), rng)
        prompt: Sendable = prompt_text.Text(written.text, tokens, *origin)
        return Posed(task, prompt, written.expected, written.depths, written.text)
    if render is None:
        raise PromptError("a chat needs the model's chat template")
    before, after = prompt_text.frame(render, [])
    written = write(task, material, Room(vocabulary, tokens, before, after, special=False, context=context), rng)
    message = {"role": "user", "content": written.text}
    if render([message]) != before + written.text + after:
        raise PromptError(
            "the chat template does not render every message in the same way, so a prompt of an exact length cannot be made"
        )
    return Posed(task, prompt_text.Chat((message,), tokens, *origin), written.expected, written.depths, written.text)


def write(task: Task, material: Material, room: Room, rng: np.random.Generator) -> Written:
    """
    Return the text of *task* in *room*. If no end of the text has the exact length, draw another text. Raises
    `PromptError`.
    """
    for _ in range(_DRAWN):
        with suppress(NoExactTextError):
            return _drawn(task, material, room, rng)
    return _drawn(task, material, room, rng)


def _drawn(task: Task, material: Material, room: Room, rng: np.random.Generator) -> Written:
    match task.kind:
        case "niah":
            return niah.write(task, material, room, rng)
        case "variable_tracking":
            return tracking.write(material, room, rng)
        case "common_words_extraction":
            return words.write_common(material, room, rng)
        case "freq_words_extraction":
            return words.write_coded(room, material, rng)
        case "qa":
            return documents.write(task, material, room, rng)
