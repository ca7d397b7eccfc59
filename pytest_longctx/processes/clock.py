"""Times of day that do not jump: an administrator, NTP or a virtual machine's host may set this machine's clock during a run."""

import time
from typing import Final

_BEGAN_S: Final = time.time() - time.monotonic()


def unix_s() -> float:
    """
    Return the Unix time in seconds, to the millisecond, by the clock as it was when this process began. The difference of two
    such times is what passed between them.
    """
    return round(_BEGAN_S + time.monotonic(), 3)
