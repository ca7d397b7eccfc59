"""The answer of a plan, as text and as JSON: whether a server fits, which memory is missing, and which flag fixes it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pytest_longctx.deployments.capacity import Prediction, Term
from pytest_longctx.deployments.expected_times import Span
from pytest_longctx.plan import cures
from pytest_longctx.plan.boots import Boot
from pytest_longctx.plan.cures import Cure
from pytest_longctx.units import GiB, duration

_PHASES = {
    "weights": "load",
    "KV cache of one request": "kv_cache",
    "req_to_token": "kv_cache",
    "CUDA graph tables": "graphs",
    "max_num_seqs": "kv_cache",
}
"""Phase of a boot in which a term that is too large makes it fail, with the names of the catalogues of log lines."""


_KINDS = (
    ("weights", "gpu-oom-weights"),
    ("KV cache of one request", "kv-cache-too-small"),
    ("max_num_seqs", "kv-cache-too-small"),
    ("req_to_token", "gpu-oom-tables"),
    ("grid", "kernel-limit"),
    ("CUDA graph tables", "gpu-oom-graphs"),
    ("sampler", "gpu-oom-profile"),
)
"""Kind of failure, by a part of the name of the term that is too large."""
_COUNTED = ("max_num_seqs",)
"""Beginnings of terms that are a count and not a number of bytes."""


@dataclass(frozen=True)
class Answer:
    """The answer of a plan about one server."""

    boot: Boot
    cures: tuple[Cure, ...] = ()
    lints: tuple[str, ...] = ()
    boot_s: float | None = None
    prefill_s: float | None = None
    spans: tuple[tuple[int, Span], ...] = ()
    """Times of prompts by their number of tokens, derived from a measured prompt."""

    @property
    def outcome(self) -> str:
        """Outcome in the plan's answer: ``fits``, the outcome of the boot, ``not decided`` or ``not planned``."""
        if self.boot.refusals:
            return "refuses"
        found = self.boot.prediction
        if found is None:
            return "not planned"
        if found.doubt:
            return "not decided"
        return "fits" if self.boot.holds else "overcommits" if found.fits else found.outcome

    @property
    def phase(self) -> str | None:
        """Phase in which the boot fails; None if it does not fail, or if the phase is unknown."""
        if self.boot.refusals:
            return self.boot.refusals[0].phase
        found = self.boot.prediction
        if found is None or found.fits or found.culprit is None:
            return None
        name = found.culprit.name
        return next(
            (phase for begins, phase in _PHASES.items() if name.startswith(begins)), _other_phase(found.culprit)
        )

    @property
    def kind(self) -> str | None:
        """Kind of failure, named as in the diagnosis of a log; None if the boot does not fail, or if the kind is unknown."""
        if self.boot.refusals:
            return self.boot.refusals[0].name
        found = self.boot.prediction
        if found is None or found.fits or found.culprit is None:
            return None
        name = found.culprit.name
        return "host-oom" if found.culprit.host else next((kind for key, kind in _KINDS if key in name), "gpu-oom")

    @property
    def missing_bytes(self) -> float | None:
        """Bytes that are missing on one device or on the host; None if none are, or if the size is unknown."""
        found = self.boot.prediction
        if self.boot.refusals or found is None or found.fits or found.culprit is None:
            return None
        if found.culprit.host:
            return sum(term.size_bytes for term in found.terms if term.host) - (self.boot.place.host_bytes or 0.0)
        pool = next((term for term in found.terms if term.name == "KV pool"), None)
        if found.culprit.name == "KV cache of one request" and pool is not None:
            return found.culprit.size_bytes - pool.size_bytes
        over = sum(term.size_bytes for term in self._kept(found)) - self.boot.place.device_bytes
        return over if over > 0 else None

    def _kept(self, found: Prediction) -> list[Term]:
        """Return the predicted memory terms that a device holds at once. The KV cache of one request is part of the pool."""
        return [term for term in found.terms if not term.host and term.name != "KV cache of one request"]

    def lines(self) -> Iterator[str]:
        """Yield the answer of a plan as lines of text: outcome, refusals, cures, server, memory, times, notes and lints."""
        yield self.headline
        for refusal in self.boot.refusals[1:]:
            yield f"  and           phase {refusal.phase} ({refusal.name}): {refusal.said}"
        for index, cure in enumerate(self.cures):
            yield f"  {'smallest fix' if not index else 'or':<13} {cure} (tried: {cure.result})"
        if (found := self.boot.prediction) and found.culprit and found.culprit.host and not self.boot.refusals:
            needed = sum(term.size_bytes for term in found.terms if term.host) / GiB
            yield f"  {'or':<13} host memory, or a limit of it, of {needed:.2f} GiB and more"
        for refusal in self.boot.refusals:
            if refusal.advice:
                yield f"  {'or':<13} {refusal.advice}"
        yield f"  {'server':<13} {self._server()}"
        yield from self._memory()
        if times := self._times():
            yield f"  {'time':<13} {times}"
        for each in self.boot.unmodelled:
            yield f"  {'not modelled':<13} {each}"
        for each in (*self.boot.asked.notes, *(self.boot.whole.notes if self.boot.whole else ())):
            yield f"  {'note':<13} {each}"
        for each in self.lints:
            yield f"  {'lint':<13} {each}"

    @property
    def headline(self) -> str:
        """First line of the answer: the outcome of the planned server, and its cause."""
        boot, partial = self.boot, " (partial: see what is not modelled)" if self.boot.unmodelled else ""
        if boot.refusals:
            return f"refuses, phase {boot.refusals[0].phase} ({self.kind}): {boot.refusals[0].said}"
        found = boot.prediction
        if found is None:
            return f"not planned: {boot.unpredicted}"
        if found.doubt:
            guess = "fits" if found.fits else found.outcome
            return f"not decided, {guess} at a guess{partial}: {found.doubt}"
        if self.outcome == "fits":
            return f"fits{partial}: {self._requests()}"
        if found.fits:
            return (
                f"serves{partial}, but holds only {found.longest_tokens:,} tokens of the {found.advertised_tokens:,} "
                "that it advertises"
            )
        phase = f", phase {self.phase} ({self.kind})" if self.phase else ""
        missing = f"; {self.missing_bytes / GiB:.2f} GiB are missing" if self.missing_bytes else ""
        return f"{found.outcome}{phase}{partial}: {self._culprit(found)}{missing}"

    def _culprit(self, found: Prediction) -> str:
        term = found.culprit
        if term is None:
            return "no single term is too large"
        if term.name == "KV cache of one request":
            pool = next((each.size_bytes for each in found.terms if each.name == "KV pool"), 0.0)
            return (
                f"one request of {self.boot.length:,} tokens needs {term.size_bytes / GiB:.2f} GiB of KV cache, "
                f"and {pool / GiB:.2f} GiB are left"
            )
        return term.name if term.name.startswith(_COUNTED) else str(term)

    def _requests(self) -> str:
        boot = self.boot
        each = f"of {boot.length:,} tokens" if boot.length else ""
        if boot.requests is None:
            return f"one request {each}"
        count = int(boot.requests)
        ranks = f" on {boot.spread.data} ranks" if boot.spread.data > 1 else ""
        longest = f"; memory holds {boot.longest:,} tokens of one request" if boot.longest else ""
        return f"{count:,} request{'' if count == 1 else 's'} {each} at once ({boot.requests:.2f}x{ranks}){longest}"

    def _server(self) -> str:
        asked, boot = self.boot.asked, self.boot
        length = f"{boot.length:,} tokens ({boot.length_said})" if boot.length else boot.length_said
        used = f", {boot.spread.devices} of them used" if boot.spread.devices < boot.place.hardware.count else ""
        return (
            f"{asked.model or 'a model without a name'} on {boot.place}{used}, {boot.spread}; {asked.engine} "
            f"{asked.version} ({asked.said}); context {length}"
        )

    def _memory(self) -> Iterator[str]:
        found = self.boot.prediction
        if found is not None:
            whole = f" of {self.boot.place.device_bytes / GiB:.1f} GiB" if self.boot.place.device_bytes else ""
            for on_host, where in (
                (False, f"each device{whole}"),
                (True, "the host" if self.boot.place.hosts == 1 else f"{self.boot.place.hosts} hosts together"),
            ):
                terms = [f"{term.name} {term.size_bytes / GiB:.2f} GiB" for term in found.terms if term.host is on_host]
                if terms:
                    yield f"  {'memory':<13} {where}: {', '.join(terms)}"
        elif (sizes := self._sizes()) is not None:
            yield f"  {'config.json':<13} {sizes}"

    def _sizes(self) -> str | None:
        """
        Return weights and KV cache from config.json, for a model whose memory is not predicted; None if the memory is
        predicted.
        """
        whole, boot = self.boot.whole, self.boot
        if whole is None:
            return None
        parts = boot.spread.attention
        weights = whole.weight_bytes(parts, 2 if whole.scheme.name else boot.asked.weight_bits / 8) / GiB
        token = whole.kv_bytes_per_token(2, parts)
        one = (
            f"; {whole.kv_bytes(boot.length, 2, parts) / GiB:.2f} GiB of it for {boot.length:,} tokens"
            if boot.length
            else ""
        )
        return (
            f"{whole.parameters / 1e9:,.2f}B parameters; weights {weights:.2f} GiB and {token:,} bytes of BF16 KV cache a "
            f"token on each of {parts} device{'' if parts == 1 else 's'}{one}"
        )

    def _times(self) -> str:
        parts = []
        if self.boot_s is not None:
            hours = self.boot.spread.devices * self.boot_s / 3600
            parts.append(f"boot about {duration(self.boot_s)} ({hours:.2f} GPU-hours)")
        for tokens, span in self.spans:
            between = f"{duration(span.low_s)} to {duration(span.high_s)}"
            parts.append(
                f"a prompt of {tokens:,} tokens about {duration(span.expected_s)} ({between}, from the measured one)"
            )
        if self.prefill_s is not None and self.boot.length and not self.spans:
            parts.append(f"a prompt of {self.boot.length:,} tokens about {duration(self.prefill_s)}")
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return the answer of a plan as JSON. An unknown figure is null."""
        boot, found = self.boot, self.boot.prediction
        asked = boot.asked
        return {
            "outcome": self.outcome,
            "headline": self.headline,
            "phase": self.phase,
            "kind": self.kind,
            "missing_bytes": self.missing_bytes,
            "where": asked.start.where if asked.start else asked.deployment.name if asked.deployment else None,
            "engine": asked.engine,
            "version": asked.version,
            "model": asked.model,
            "hardware": str(boot.place),
            "devices": boot.spread.devices,
            "flags": dict(asked.flags),
            "length_tokens": boot.length,
            "length_said": boot.length_said,
            "requests": boot.requests,
            "longest_tokens": boot.longest,
            "partial": bool(boot.unmodelled),
            "unmodelled": list(boot.unmodelled),
            "refusals": [{"name": each.name, "phase": each.phase, "said": each.said} for each in boot.refusals],
            "unpredicted": boot.unpredicted,
            "doubt": found.doubt if found else "",
            "terms": [asdict(term) for term in found.terms] if found else [],
            "cures": [{"changes": str(cure), "result": cure.result} for cure in self.cures],
            "boot_s": self.boot_s,
            "prefill_s": self.prefill_s,
            "from_measured": [{"tokens": tokens, **span._asdict()} for tokens, span in self.spans],
            "lints": list(self.lints),
        }


def _other_phase(term: Term) -> str | None:
    name = term.name
    if "sampler" in name:
        return "warm-up"
    if "grid" in name:
        return "graphs"
    return "load" if term.host else None


def of(
    boot: Boot,
    lints: tuple[str, ...] = (),
    boot_s: float | None = None,
    prefill_s: float | None = None,
    spans: tuple[tuple[int, Span], ...] = (),
) -> Answer:
    """Return the plan's answer for a predicted *boot*, with the cures that were tried, lints and times."""
    return Answer(boot, tuple(cures.find(boot)), lints, boot_s, prefill_s, spans)
