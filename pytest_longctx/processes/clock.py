"""
Times of day without jumps, even if an administrator, NTP or a virtual machine's host sets this machine's clock.

A run then still measures the right durations.
"""

import time
from typing import Final

_BEGAN_S: Final = time.time() - time.monotonic()


def unix_s() -> float:
    """
    Return the Unix time in seconds, to the millisecond, by the clock as it was when this process started.

    The difference of two such times is the time that passed between them.
    """
    return round(_BEGAN_S + time.monotonic(), 3)
