"""Send the readings of a state path, and their cold controls."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from pytest_longctx.client import event_loop, prefix_cache, server_metrics
from pytest_longctx.client.exchange import Exchange, UnservedError
from pytest_longctx.client.load import reading as scrape
from pytest_longctx.client.request import StreamedRequest, open_client
from pytest_longctx.client.server import Server
from pytest_longctx.client.server_metrics import ServerMetrics
from pytest_longctx.client.state_paths import tasks
from pytest_longctx.client.state_paths.reading import Pieces, Reading
from pytest_longctx.client.state_paths.tasks import Task
from pytest_longctx.client.watchdog import CONNECT_S, MetricsPoller, poll_metrics
from pytest_longctx.deployments import models
from pytest_longctx.errors import ModelError
from pytest_longctx.findings.ask import Ask
from pytest_longctx.probe import registry
from pytest_longctx.probe.questions import Windows
from pytest_longctx.processes.progress import ProgressCallback, wait_until
from pytest_longctx.prompts import PromptFactory
from pytest_longctx.prompts.token_ids import Ids

CONTROLS: Final = 8
"""Number of prompts of a path that are read cold. A provable answer needs no control."""
_SETTLE_S: Final = 5.0


class UnwalkableError(Exception):
    """The state path cannot be walked on this server. The message gives the reason."""


@dataclass(slots=True)
class Walk:
    """One state path on one server, and its readings."""

    server: Server
    prompt: PromptFactory
    asked: Ask
    watch: ProgressCallback
    pieces: Pieces = field(init=False)
    blocks: int | None = None
    """Blocks of the KV cache; None if unknown."""
    caching: bool | None = None
    """Whether the server caches prefixes, as it reports; None if it does not report this."""
    readings: list[Reading] = field(default_factory=list)
    colds: dict[str, list[Exchange]] = field(default_factory=dict)
    not_taken: str = ""
    """The reason why the path was walked but not taken; empty if it was taken."""
    counts: dict[str, float | None] = field(default_factory=dict)
    """Measures of this path alone, by name."""
    _salts: int = 0
    _contexts: dict[str, list[Ids]] = field(default_factory=dict)
    """Prompts and answers that may be cached, by salt."""
    _prompts: dict[str, list[Ids]] = field(default_factory=dict)
    """Prompts that may be cached, without their answers, by salt."""

    def __post_init__(self) -> None:
        with open_client(self.server, CONNECT_S) as http:
            layout = server_metrics.cache_labels(http, self.server.backend.metrics)
        flags = self.server.deployment.flags
        self.caching = _claims(layout, dict(flags))
        self.blocks = _number(layout.get("num_gpu_blocks") or flags.get("num-gpu-blocks-override"))
        block = _number(layout.get("block_size") or flags.get("block-size") or flags.get("page-size"))
        context = self.server.deployment.max_model_len
        self.pieces = Pieces(
            # Of a model with states alone, one block holds a request of any length.
            None if block and context and block >= context else block,
            _number(flags.get("max-num-batched-tokens") or flags.get("chunked-prefill-size")),
            _window(self.server),
        )

    @property
    def block(self) -> int:
        """Number of tokens in a KV cache block of the walk's server; 1 if unknown."""
        return self.pieces.block or 1

    @property
    def sparse(self) -> bool:
        """
        Whether the walk's model has layers with windows or states, which can serve a cached prefix only from a
        checkpoint of theirs.
        """
        return self.pieces.window is not None or _has_states(self.server)

    @property
    def probe(self) -> bool:
        """Whether the walk's model is a probe, which has provable answers."""
        return self.server.deployment.model.weights == "probe"

    @property
    def windows(self) -> Windows:
        """For each key of the walk's probe, the number of tokens that the key's layer sees."""
        return registry.windows(self.server.deployment.model.make)

    @property
    def tokens(self) -> int:
        """Prompt length in tokens of the walked path, as the finding sets it."""
        return self.asked.prompt_tokens or 1

    def new(self, tokens: int | None = None, border: int | None = None) -> Task:
        """
        Return a new task of *tokens*, or of the finding's length. Raises `UnwalkableError` if the task is too long for
        the server.
        """
        one, length = self.server.deployment, tokens or self.tokens
        room = min(
            (most for most in (one.max_model_len, one.longest_prompt) if most),
            default=length + self.asked.output_tokens,
        )
        if length + self.asked.output_tokens > room:
            raise UnwalkableError(
                f"this path needs a prompt of {length:,} tokens; at most {room:,} fit, including the answer"
            )
        return tasks.new(
            self.prompt,
            length,
            self.asked.output_tokens,
            probe=self.probe,
            border=border,
            windows=self.windows,
        )

    def read(
        self, task: Task, *, reusable: int = 0, salt: str = "", judged: bool = True, whole_only: bool = True
    ) -> Reading:
        """Send *task* alone on the walked path, and return the reading."""
        (found,) = self.together([task], reusable=[reusable], salt=salt, judged=judged, whole_only=whole_only)
        return found

    def again(self, task: Task, **how: bool | str) -> Reading:
        """Send *task* again on the walked path, and return the reading. Every token of the prompt may be cached."""
        return self.read(task, reusable=len(task.prompt), **how)  # type: ignore[arg-type]

    def together(
        self,
        several: Sequence[Task],
        *,
        reusable: Sequence[int] = (),
        salt: str = "",
        judged: bool = True,
        whole_only: bool = True,
    ) -> list[Reading]:
        """
        Send *several* tasks of the walked path at once, and return the readings. Raises `UnservedError` for the first
        that is not served.
        """
        sent = event_loop.run(self._all([(task, salt) for task in several]))
        earlier, prompts = self._contexts.setdefault(salt, []), self._prompts.setdefault(salt, [])
        # Those that are read at once may reuse each other's.
        shared = [
            max(
                (tasks.common_prefix(task.prompt.ids, other) for other in (*earlier, *_others(several, task))),
                default=0,
            )
            for task in several
        ]
        found = [
            Reading(
                task,
                exchange,
                most,
                common,
                whole_only,
                _ends_inside(task, common, earlier),
                max((tasks.common_prefix(task.prompt.ids, other) for other in prompts), default=0),
            )
            for task, exchange, most, common in zip(several, sent, reusable or [0] * len(several), shared, strict=True)
        ]
        earlier += [tasks.context(each.task, each.answer_ids or ()) for each in found]
        prompts += [each.task.prompt.ids for each in found]
        if judged:
            self.readings += found
        return found

    def colds_of(self, each: Reading) -> Sequence[Exchange]:
        """Return the walk's cold readings of the prompt of *each*, a reading."""
        return self.colds.get(each.task.name, ())

    def talk(
        self, task: Task, salt: str = "", *, at_once: int = 1, gauges: MetricsPoller | None = None
    ) -> StreamedRequest:
        """
        Return the request for *task*, one of *at_once*. *gauges* polls the metrics for all requests in flight; None if
        this request is alone.
        """
        return StreamedRequest(
            replace(self.server, salt=self.server.salt + salt) if salt else self.server,
            task.prompt,
            task.output_tokens,
            self.server.deployment.timeouts.request_s(len(task.prompt) * at_once, task.output_tokens),
            self.watch,
            traced=True,
            gauges=gauges,
        )

    async def _all(self, several: Sequence[tuple[Task, str]]) -> list[Exchange]:
        count = len(several)
        async with poll_metrics(self.server) as gauges:
            shared = None if count == 1 else gauges
            asked = (self.talk(task, salt, at_once=count, gauges=shared) for task, salt in several)
            exchanges = await asyncio.gather(*(each.run() for each in asked))
        for exchange in exchanges:
            if exchange.ending != "complete":
                raise UnservedError(exchange.ending, exchange)
        return exchanges

    def scrape(self) -> ServerMetrics:
        """Return the current counters of the walk's server."""
        return scrape(self.server)

    def grown(self, name: str, before: ServerMetrics) -> float | None:
        """
        Return the increase of a counter of the walk's server since *before*, after the counters have settled; None if
        unknown.
        """
        wait_until(self.scrape, _SETTLE_S, 0.05, done=lambda now: now.running in (None, 0))
        return self.scrape().grown(name, before)

    def reset(self) -> None:
        """Empty the prefix cache of the walk's engine. Raises `UnwalkableError` if the server refuses."""
        self._contexts.clear()
        self._prompts.clear()
        refusal = prefix_cache.reset(self.server)
        if refusal is not None:
            raise UnwalkableError(f"the prefix cache cannot be emptied: {refusal.status} {refusal.text}")

    def fresh_salt(self) -> str:
        """Return a cache salt that no other request of the walk uses."""
        self._salts += 1
        return f"cold-{self._salts}"

    def control(self) -> None:
        """
        Read up to `CONTROLS` prompts of the walked path cold and at once, and one of them alone, twice more.

        A batch takes the time of its longest answer, so the controls cost less than the path.
        """
        named = {each.task.name: each.task for each in self.readings}
        step = max(1, len(named) // CONTROLS)
        chosen = [*islice(named.values(), 0, CONTROLS * step, step)]
        for task in chosen[:1] * 2:
            self._keep(task, self.cold([task]))
        company = chosen if len(chosen) > 1 else [*chosen, self.new()]
        for task, exchange in zip(company, self.cold(company), strict=True):
            self._keep(task, [exchange])

    def cold(self, several: Sequence[Task]) -> list[Exchange]:
        """
        Answer *several* tasks at once without cached prefixes, and return the exchanges. Raises `UnservedError` and
        `UnwalkableError`.
        """
        if self.server.backend.salted:
            # A salt of its own leaves the cache as it is.
            salts = [self.fresh_salt() for _ in several]
        else:
            self.reset()
            salts = [""] * len(several)
        return event_loop.run(self._all(list(zip(several, salts, strict=True))))

    def _keep(self, task: Task, exchanges: Sequence[Exchange]) -> None:
        self.colds.setdefault(task.name, []).extend(exchanges)


def _others(several: Sequence[Task], task: Task) -> Iterator[Ids]:
    """Yield the prompts of a walk that are read together with *task*."""
    return (other.prompt.ids for other in several if other is not task)


def _ends_inside(task: Task, common: int, earlier: Sequence[Ids]) -> bool:
    """
    Return whether *common* tokens are shared with *earlier* contexts, and neither the task nor one of these contexts
    ends there.
    """
    return common < len(task.prompt) and not any(
        len(context) <= common and tasks.common_prefix(task.prompt.ids, context) == len(context) for context in earlier
    )


def _claims(layout: dict[str, str], flags: dict[str, object]) -> bool | None:
    """
    Return whether the walk's server reports, by metrics or flags, that it caches prefixes; None if it reports neither
    yes nor no.
    """
    told = layout.get("enable_prefix_caching", "").lower()
    if told in ("true", "false"):
        return told == "true"
    asked = flags.get("enable-prefix-caching")
    if asked is False or flags.get("no-enable-prefix-caching") or flags.get("disable-radix-cache"):
        return False
    return True if asked else None


def _number(value: object) -> int | None:
    text = str(value)
    return int(text) if text.isdigit() and int(text) > 0 else None


def _has_states(server: Server) -> bool:
    try:
        found = models.read_shape(server.deployment.model)
    except ModelError:
        return False
    return isinstance(found, models.Beyond) and bool(found.whole.states)


def _window(server: Server) -> int | None:
    of_layers = [window for window in registry.windows(server.deployment.model.make) if window]
    if of_layers:
        return min(of_layers)
    try:
        shape = models.shape_of(server.deployment.model)
    except ModelError:
        return None
    return shape.window if shape is not None and (shape.chunked or shape.sliding) and shape.window else None
