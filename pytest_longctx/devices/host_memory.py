"""Host memory of a server's processes, by the kernel's own counts."""

import re
from collections.abc import Iterable
from pathlib import Path

from pytest_longctx.units import GiB

_ROW = re.compile(rb"^(VmRSS|RssAnon):\s+(\d+) kB", re.MULTILINE)


def figures(pids: Iterable[int]) -> dict[str, float]:
    """
    Resident memory of *pids* together, in GiB; empty where none of them can be read.

    ``host_rss_gib`` counts a page once for each process that maps it, so it is at least what the group takes;
    ``host_anonymous_gib`` leaves out files and shared memory, so it is about the least. What lies between them would take
    ``smaps_rollup``, which walks every page of a server and is only for its owner.
    """
    sums = {b"VmRSS": 0, b"RssAnon": 0}
    seen = False
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_bytes()
        except OSError:  # it ended while we looked
            continue
        for name, kib in _ROW.findall(status):
            sums[name] += int(kib)
            seen = True
    if not seen:
        return {}
    return {
        "host_rss_gib": round(sums[b"VmRSS"] * 1024 / GiB, 3),
        "host_anonymous_gib": round(sums[b"RssAnon"] * 1024 / GiB, 3),
    }
