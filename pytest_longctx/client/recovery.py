"""Did the server get over a request that it may not be able to hold? Pure: that request, and a small one sent after it."""

from dataclasses import replace
from typing import Final

from pytest_longctx.client.exchange import Exchange
from pytest_longctx.observation import Observation
from pytest_longctx.units import duration

CANARY_TOKENS: Final = 8
"""Prompt of the small request: it fits into any pool, and needs no work to speak of."""


def after(seen: Observation, canary: Exchange) -> Observation:
    """*seen* of a request that is over, answered or given up, with what became of the *canary* sent next."""
    small = f"a request of {canary.sent_tokens} tokens after it"
    well = canary.ending == "complete"
    took_s = canary.ended_s - canary.started_s
    if well:
        said = f"{small} was answered in {duration(took_s)}: the server has recovered"
    elif canary.ending == "unfinished":
        said = f"{small} was not answered in {duration(took_s)}, and the server was still at work: {canary.detail}"
    else:
        words = canary.refusal.text if canary.refusal else canary.detail
        said = f"{small} was not answered ({canary.ending}: {words}): the server has not recovered"
    recovered = None if canary.ending == "unfinished" else float(well)
    metrics = {**seen.metrics, "recovered": recovered, "canary_s": took_s if well else None}
    return replace(seen, metrics=metrics, said="; ".join(filter(None, (seen.said, said))))
