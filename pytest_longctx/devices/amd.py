"""AMD devices, read by ``amd-smi`` or ``rocm-smi``. Written from published output, not yet run on such a device."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_longctx.devices import Device, Holder, document, printed, wanted
from pytest_longctx.units import Mi

AMD_SMI = ("amd-smi", "metric", "--json")
ROCM_SMI = ("rocm-smi", "--showuse", "--showmeminfo", "vram", "--showpower", "--showclocks", "--json")
_DETECT = ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showdriverversion", "--json")
_PATIENCE_S = 20.0


def detected() -> list[str]:
    """
    Return a line for each AMD device: name, memory and driver, as far as reported. ROCm 6 changed the letter case of
    the keys.
    """
    said = document(printed(*_DETECT))
    if not isinstance(said, dict):
        return []
    system = said.get("system")
    driver = str(system.get("Driver version", "")) if isinstance(system, dict) else ""
    found = []
    for name, row in said.items():
        if not (re.fullmatch(r"card\d+", name) and isinstance(row, dict)):
            continue
        told = {key.lower(): str(value) for key, value in row.items()}
        # Where the driver has no name for a card, its series stands with its model, or is a number.
        called = " ".join(
            dict.fromkeys(told[key] for key in ("card series", "card model", "market name") if key in told)
        )
        size = told.get("vram total memory (b)", "")
        memory = f"{int(size) // Mi} MiB" if size.isdecimal() else ""
        found.append(", ".join(filter(None, (called, memory, driver))))
    return found


class AmdSmi:
    """Reader of AMD devices with AMD's own tool, which is started for each reading."""

    every_s = 5.0

    def __init__(self, names: Sequence[str], count: int) -> None:
        self._argv = AMD_SMI if shutil.which(AMD_SMI[0]) else ROCM_SMI
        self.name = self._argv[0]
        self._wanted = wanted(names, count, count)
        self.devices()

    def devices(self) -> tuple[Device, ...]:
        """Return a reading of every AMD device."""
        done = subprocess.run(self._argv, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
        found = read_amd_smi(done.stdout) if self._argv is AMD_SMI else read_rocm_smi(done.stdout)
        # The output has no UUIDs, so a device named by UUID cannot be selected.
        by_index = all(isinstance(name, int) for name in self._wanted)
        return tuple(one for one in found if one.index in self._wanted or not by_index)

    def holders(self) -> tuple[Holder, ...]:
        """Return an empty tuple, because AMD's tools do not reliably report which process holds memory of which device."""
        return ()

    def close(self) -> None:
        """Do nothing, because no process of AMD's tools is left running."""


def read_amd_smi(text: str) -> tuple[Device, ...]:
    """
    Return the devices in the output of ``amd-smi metric --json``: a list, from ROCm 7 on inside an object. Raises
    ValueError.
    """
    found = document(text)
    rows = found["gpu_data"] if isinstance(found, dict) else found
    return tuple(_of_amd_smi(row) for row in rows)


def _of_amd_smi(row: Mapping[str, Any]) -> Device:
    # A device of several dies has one clock per die; the fastest counts.
    clocks = row.get("clock")
    cores = [_value(clocks, name, "clk") for name in clocks or () if name.startswith("gfx_")]
    used_mib, activity = _value(row, "mem_usage", "used_vram"), _value(row, "usage", "gfx_activity")
    return Device(
        int(row["gpu"]),
        used_bytes=None if used_mib is None else used_mib * Mi,
        power_w=_value(row, "power", "socket_power"),
        clock_mhz=max((each for each in cores if each is not None), default=None),
        memory_clock_mhz=_value(clocks, "mem_0", "clk"),
        utilisation=None if activity is None else activity / 100,
    )


def _value(row: Any, *path: str) -> float | None:
    """Return the number at *path* of AMD's report, with or without a unit; None for ``N/A`` or a missing key."""
    for key in path:
        row = row.get(key) if isinstance(row, dict) else None
    found = row.get("value") if isinstance(row, dict) else row
    return float(found) if isinstance(found, int | float) else None


def read_rocm_smi(text: str) -> tuple[Device, ...]:
    """
    Return the devices in the output of ``rocm-smi ... --json``: an object with one key per card, all values strings.
    Raises ValueError.
    """
    cards = {name.removeprefix("card"): row for name, row in document(text).items() if re.fullmatch(r"card\d+", name)}
    return tuple(_of_rocm_smi(int(index), row) for index, row in cards.items())


def _of_rocm_smi(index: int, row: Mapping[str, str]) -> Device:
    busy = _number(row, r"GPU use \(%\)")
    return Device(
        index,
        used_bytes=_number(row, r"VRAM Total Used Memory \(B\)"),
        # The key differs between cards: Average, Current Socket.
        power_w=_number(row, r"(Average|Current Socket) Graphics Package Power \(W\)"),
        clock_mhz=_number(row, r"sclk clock speed:"),
        memory_clock_mhz=_number(row, r"mclk clock speed:"),
        utilisation=None if busy is None else busy / 100,
    )


def _number(row: Mapping[str, str], name: str) -> float | None:
    reported = next((value for key, value in row.items() if re.fullmatch(name, key)), "")
    found = re.search(r"\d+(\.\d+)?", reported)
    return float(found[0]) if found else None
