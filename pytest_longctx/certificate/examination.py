"""State of one endpoint under examination: the known facts, and the way in which a check sends a request."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pytest_longctx.certificate.budget import OverBudget
from pytest_longctx.certificate.calibration import Ruler
from pytest_longctx.certificate.dialects import Dialect, Turn, known
from pytest_longctx.certificate.reply import Reply
from pytest_longctx.certificate.results import Result
from pytest_longctx.certificate.texts import COUNTING, Quest
from pytest_longctx.certificate.wire import Wire
from pytest_longctx.client.json_values import count_of, json_of
from pytest_longctx.errors import LongctxError
from pytest_longctx.redaction import shown

_LENGTHS = ("max_model_len", "context_length", "context_window", "max_context_length", "max_input_tokens")
_META_LENGTHS = (*_LENGTHS, "n_ctx")
"""
Fields of a model's row, or of its ``meta``, with the context length. llama.cpp's ``n_ctx_train`` is ignored beside
``n_ctx``.
"""
SMALL = (("user", "Hello. Reply with one word."),)
_ABSENT = (404, 405)
_ANSWERS = (4, 16, 256)
"""Values of ``max_tokens`` for the first answer. Some servers refuse fewer than 16."""
_INVALID = (400, 422)


class Unaskable(LongctxError):  # noqa: N818 - it states what the endpoint does
    """The endpoint serves no known dialect, so nothing can be judged."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A prompt of filler words and its answer."""

    tokens: int
    """Tokens of the prompt, by the ruler."""
    reply: Reply


@dataclass(slots=True)
class Examination:
    """The state of an examination, which all checks share."""

    wire: Wire
    model: str | None = None
    claim: int | None = None
    seed: int = 0
    key_given: bool = False
    vocabulary: Any = None
    """A tokenizer of `pytest_longctx.prompts.tokenizer`; None if none was given."""
    listed: int | None = None
    """The context length that ``/v1/models`` reports."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Findings of the first requests: dialect and fields."""
    sent: list[Sent] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    recall: str = ""
    """How to request codes: ``all`` in one answer, or ``single``; empty if the model gives no code."""
    reasoning_tokens: int = 0
    """Tokens allowed for reasoning before the codes."""
    characters_per_token: float = 3.0
    facts: dict[str, Any] = field(default_factory=dict)
    """Results of one group of checks that another group needs."""
    found_dialect: Dialect | None = None
    """None: not found yet."""
    _ruler: Ruler | None = None
    _rng: np.random.Generator | None = None

    @property
    def rng(self) -> np.random.Generator:
        if self._rng is None:
            self._rng = np.random.default_rng(self.seed)
        return self._rng

    @property
    def dialect(self) -> Dialect:
        if self.found_dialect is None:
            raise Unaskable("the dialect of the endpoint is unknown: no request in any known dialect has succeeded")
        return self.found_dialect

    @property
    def ruler(self) -> Ruler:
        if self._ruler is None:
            raise Unaskable(
                "prompts of a given number of tokens cannot be built: the calibration of lengths has not succeeded"
            )
        return self._ruler

    @ruler.setter
    def ruler(self, value: Ruler) -> None:
        self._ruler = value

    @property
    def streams(self) -> bool:
        return bool(self.fields.get("stream"))

    def ask(self, turns: tuple[Turn, ...], answer_tokens: int, **more: Any) -> Reply:
        """
        Send a request to the examined endpoint in the dialect that it serves, and return the answer. Raises
        `OverBudget`.
        """
        return self.wire.ask(self.dialect, turns, more.pop("model", self.model), answer_tokens, **more)

    def fill(self, tokens: int, answer_tokens: int = 1, **more: Any) -> Sent:
        """Send a new filler prompt of *tokens* to the examined endpoint, and return the prompt with its answer."""
        made = self.ruler.made(tokens)
        expected = made if self.ruler.counted else None
        reply = self.ask(self.ruler.turns(self.rng, tokens), answer_tokens, expected=expected, **more)
        sent = Sent(made, reply)
        self.sent.append(sent)
        return sent

    def answer(self, quest: Quest, tokens: int | None = None, **more: Any) -> Reply:
        """Request the codes of *quest*, a text of about *tokens*, from the examined endpoint, and return the answer."""
        room = answer_room(len(quest.asked)) + self.reasoning_tokens
        expected = int(tokens * 1.1) if tokens is not None and self.ruler.counted else None
        return self.ask(quest.turns, room, expected=expected, **more)

    def natural(self, *tokens: int) -> str:
        """Return the lengths of natural texts as text: in tokens if tokens are counted, otherwise in letters."""
        listed = ", ".join(f"{each:,}" for each in tokens)
        return f"{listed} tokens" if self.ruler.counted else f"{listed} x {self.characters_per_token:g} letters"

    def is_broken(self, check: str) -> bool:
        """Return whether this examination has judged *check* as broken."""
        return any(each.check == check and each.word == "broken" for each in self.results)

    def affords(self, tokens: int) -> bool:
        """Return whether the examination's budget allows *tokens* more tokens."""
        return self.wire.budget.left() >= tokens * 1.02 + 512


def answer_room(codes: int) -> int:
    """
    Return the number of answer tokens to allow for *codes* codes of a certificate's prompt, with some words around
    them.
    """
    return min(256, 24 + 12 * codes)


def list_models(exam: Examination) -> None:
    """
    Store the facts of the examined endpoint's ``/v1/models``: the model's name if it lists only one, and its context
    length.
    """
    entries = _entries(exam, "/v1/models") or _entries(exam, "/models")
    ids = [str(entry["id"]) for entry in entries if isinstance(entry.get("id"), str)]
    exam.fields["models"] = len(ids) or None
    if exam.model is None and ids:
        if len(ids) > 1:
            raise Unaskable(
                f"{exam.wire.base} lists {len(ids)} models: {shown(', '.join(ids[:8]))}\n"
                "  try      --model with one of these names"
            )
        exam.model = ids[0]
    entry = next((entry for entry in entries if entry.get("id") == exam.model), {})
    meta = entry.get("meta")
    values = [count_of(entry.get(name)) for name in _LENGTHS]
    values += [count_of(meta.get(name)) for name in _META_LENGTHS] if isinstance(meta, dict) else []
    exam.listed = next((value for value in values if value), None)


def _entries(exam: Examination, path: str) -> list[Mapping[str, Any]]:
    """Return the rows of the examined endpoint's model list at *path*; empty if the endpoint has no list."""
    response = exam.wire.get(path)
    if response is None or response.status_code != 200:
        return []
    try:
        page = json_of(response.text)
    except ValueError:
        return []
    found = page.get("data") if isinstance(page, dict) else page
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def find_dialects(exam: Examination, wanted: str | None = None) -> None:
    """Try each dialect and keep the first that the endpoint serves. With *wanted*, try only this dialect. Raises `Unaskable`."""
    asked = [each for each in known() if wanted in (None, each.id)]
    said, absent = _ask_each(exam, asked)
    if exam.found_dialect is None and absent:
        # The base URL of some APIs has a version of its own, or none.
        said = [*said, *_ask_each(exam, [each.without_version for each in asked if each.path != "/generate"])[0]]
    if exam.found_dialect is None:
        raise Unaskable(
            "\n".join((f"{exam.wire.base} does not answer in any known dialect", *said, f"  try      {_remedy(exam)}"))
        )
    _find_least_answer(exam)
    exam.fields["dialect"], exam.fields["limit_field"] = exam.dialect.id, exam.dialect.limit[0]
    _find_stream(exam)


def _ask_each(exam: Examination, dialects: Iterable[Dialect]) -> tuple[list[str], bool]:
    """
    Try *dialects* on the examined endpoint. Return the error of each unserved dialect, and whether every path is
    missing.
    """
    said: list[str] = []
    absent = True
    served: dict[str, str] = exam.fields.setdefault("dialects", {})
    for each in dialects:
        dialect, reply = _first_answer(exam, each)
        absent = absent and reply.status in _ABSENT
        served[each.id] = reply.ending if reply.served else reply.said or reply.ending
        if reply.served and exam.found_dialect is None:
            exam.found_dialect = dialect
        elif not reply.served:
            said.append(f"  found    POST {each.path}: {reply.said}")
        if exam.found_dialect is None and reply.ending in ("locked", "redirected"):
            break
    return said, absent


def _remedy(exam: Examination) -> str:
    statuses = {reply.status for reply in exam.wire.replies}
    if statuses & {401, 403}:
        return "the right key in the environment variable LONGCTX_API_KEY, or in the variable that --key-env names"
    if moved := next((reply.location for reply in exam.wire.replies if reply.ending == "redirected"), ""):
        return f"the address of the redirect, if this is the API's address (redirects are not followed): {shown(moved)}"
    if exam.model is None:
        return "--model with the name of a model that the server serves"
    return "the base URL of the API, without /v1, and --model"


def _first_answer(exam: Examination, dialect: Dialect) -> tuple[Dialect, Reply]:
    """
    Send a request in *dialect*, without the fields that the endpoint refuses by name. Return the accepted dialect and
    the answer.
    """
    reply = exam.wire.ask(dialect, SMALL, exam.model, _ANSWERS[0])
    for name in ("max_tokens", "temperature"):
        if reply.status in _INVALID and name in reply.error and name in (*dialect.limit, "temperature"):
            other = dialect.without(name)
            changed = exam.wire.ask(other, SMALL, exam.model, _ANSWERS[0])
            if changed.served or changed.error != reply.error:
                dialect, reply = other, changed
    if reply.status not in _INVALID or exam.found_dialect is not None:
        return dialect, reply
    for tokens in _ANSWERS[1:]:
        longer = exam.wire.ask(dialect, SMALL, exam.model, tokens)
        if longer.served:
            return replace(dialect, least_answer=tokens), longer
    for other in dialect.fewer:
        changed = exam.wire.ask(other, SMALL, exam.model, _ANSWERS[0])
        if changed.served:
            return other, changed
    return dialect, reply


def _find_least_answer(exam: Examination) -> None:
    """Check whether the examined endpoint serves answers of one token. If not, all requests ask for longer answers."""
    if exam.dialect.least_answer == 1 and exam.ask(SMALL, 1).status in _INVALID:
        exam.found_dialect = replace(exam.dialect, least_answer=_ANSWERS[0])
    exam.fields["least_answer"] = exam.dialect.least_answer


def _find_stream(exam: Examination) -> None:
    reply = exam.ask((("user", COUNTING),), 8, stream=True)
    if reply.ending == "refused" and exam.dialect.stream_options:
        exam.found_dialect = exam.dialect.without("stream_options")
        reply = exam.ask((("user", COUNTING),), 8, stream=True)
    exam.fields["stream"] = reply.served and reply.events > 0
    exam.fields["stream_options"] = exam.dialect.stream_options


def affordable(exam: Examination, tokens: int) -> None:
    """Check that the certificate's budget allows *tokens* more, before a prompt is made. Raises `OverBudget`."""
    if not exam.affords(tokens):
        raise OverBudget(f"the budget has {exam.wire.budget.left():,} tokens left; about {tokens:,} are needed")
