"""Check that a server still answers a short request, the canary, after a request that may exceed its capacity."""

from dataclasses import replace
from typing import Final

from pytest_longctx.client.exchange import Exchange
from pytest_longctx.observation import Observation
from pytest_longctx.units import duration

CANARY_TOKENS: Final = 8
"""Length in tokens of the canary, which fits into any KV pool and needs almost no work."""


def after(seen: Observation, canary: Exchange) -> Observation:
    """
    Return *seen*, the result of a finished or cancelled request, combined with the result of the *canary* sent
    afterwards.
    """
    small = f"a request of {canary.sent_tokens} tokens after it"
    well = canary.ending == "complete"
    took_s = canary.ended_s - canary.started_s
    if well:
        result = f"{small} was answered in {duration(took_s)}: the server has recovered"
    elif canary.ending == "unfinished":
        result = f"{small} was not answered in {duration(took_s)} while the server was still working: {canary.detail}"
    else:
        message = canary.refusal.text if canary.refusal else canary.detail
        result = f"{small} was not answered ({canary.ending}: {message}): the server has not recovered"
    recovered = None if canary.ending == "unfinished" else float(well)
    metrics = {**seen.metrics, "recovered": recovered, "canary_s": took_s if well else None}
    return replace(seen, metrics=metrics, said="; ".join(filter(None, (seen.said, result))))
