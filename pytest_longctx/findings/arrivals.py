"""When the requests of an open loop are due, whatever becomes of those before them."""

import random
from itertools import accumulate, repeat
from typing import Literal

Arrivals = Literal["poisson", "constant"]
"""``poisson``: independent of each other, as from many clients; ``constant``: evenly spaced."""


def offsets(requests: int, rate_per_s: float, arrivals: Arrivals, seed: int) -> tuple[float, ...]:
    """
    Seconds from the first request to each; the same again for the same seed.

    >>> offsets(4, 2.0, "constant", 0)
    (0.0, 0.5, 1.0, 1.5)
    """
    draw = random.Random(seed)
    gaps = repeat(1 / rate_per_s) if arrivals == "constant" else iter(lambda: draw.expovariate(rate_per_s), None)
    return tuple(at for at, _ in zip(accumulate(gaps, initial=0.0), range(requests), strict=False))
