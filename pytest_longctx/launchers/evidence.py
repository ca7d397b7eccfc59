"""Combine the results of a test (one exchange, several, or an observation) into the one observation to judge."""

from collections.abc import Callable, Sequence

from pytest_longctx.client.exchange import Exchange
from pytest_longctx.errors import LaunchError
from pytest_longctx.findings import aggregate
from pytest_longctx.observation import Observation


def summarised(
    seen: Exchange | Sequence[Exchange] | Observation, weigh: Callable[[Exchange], Observation] = Exchange.observe
) -> Observation:
    """Return what a test has *seen* as one observation. Raises `LaunchError` if no request reached an engine."""
    if not isinstance(seen, Observation):
        each = [seen] if isinstance(seen, Exchange) else seen
        seen = aggregate.summary([weigh(one) for one in each])
    require_asked(seen)
    return seen


def require_asked(seen: Observation) -> None:
    """Raise `LaunchError` if a request never reached an engine. That is an error of the environment and judges no finding."""
    if seen.kind == "not-asked":
        raise LaunchError(seen.said)
