"""The checks of ``longctx doctor``. Each returns its result, with a remedy if something is missing."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

from packaging.requirements import Requirement

from pytest_longctx import backends, paths, registry
from pytest_longctx.backends import Backend, environments
from pytest_longctx.deployments.hardware import Machine
from pytest_longctx.errors import LongctxError
from pytest_longctx.launchers import docker
from pytest_longctx.launchers.kubernetes.cluster import Cluster
from pytest_longctx.units import GiB

Word = Literal["ok", "limited", "missing", "wrong"]
"""
``limited``: usable, with less than the documents assume. ``missing``: only some runs need it. ``wrong``: no run
can work.
"""

_PACKAGE: Final = "pytest-longctx"
_LITTLE_DISK: Final = 10 * GiB
"""Least free disk in bytes: an engine with PyTorch has up to 8 GiB, and a generated model some GiB more."""
_LITTLE_MEMORY: Final = 4 * GiB
"""Least memory in bytes: vLLM's CPU build with a tiny model takes 3 GiB."""
_LITTLE_SHM: Final = GiB
"""Least size of ``/dev/shm``. Docker's default of 64 MiB is too small for workers that exchange tensors through it."""
_SHM: Final = "/dev/shm"  # noqa: S108 - the mount itself
_NO_SHM: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check of the machine."""

    name: str
    word: Word
    said: str
    cure: str = ""

    def lines(self) -> Iterator[str]:
        """Yield the result of the check as lines for a terminal."""
        yield f"{self.word:<8} {self.name:<14} {self.said}"
        if self.cure:
            yield f"{'':<8} {'':<14} try: {self.cure}"


def versions() -> Iterator[Check]:
    """Yield the checks of the package, its interpreter, its requirements and its extras."""
    own = metadata.version(_PACKAGE)
    said = f"{_PACKAGE} {own}, Python {platform.python_version()}, pytest {metadata.version('pytest')}"
    wanted = [Requirement(text) for text in metadata.requires(_PACKAGE) or ()]
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    if lacking := list(_lacking(needed)):
        words = " ".join(f"'{one.name}{one.specifier}'" for one in needed if _lacks(one))
        yield Check("versions", "wrong", f"{said}; {'; '.join(lacking)}", f"{sys.executable} -m pip install {words}")
    else:
        yield Check("versions", "ok", said)
    for extra, serves in _EXTRAS.items():
        asked = [one for one in wanted if one not in needed and one.marker and one.marker.evaluate({"extra": extra})]
        if lacking := list(_lacking(asked)):
            cure = f"pip install '{_PACKAGE}[{extra}]'"
            yield Check(f"[{extra}]", "missing", f"{serves}: {'; '.join(lacking)}", cure)
        else:
            yield Check(f"[{extra}]", "ok", serves)


_EXTRAS: Final = {
    "hf": "prompts in text, chat templates",
    "report": "the HTML report",
    "docker": "engines in containers",
    "kubernetes": "engines in a cluster, manifests in YAML",
    "nvidia": "memory and power of NVIDIA devices during a run",
}


def _lacking(wanted: list[Requirement]) -> Iterator[str]:
    for one in wanted:
        if found := _lacks(one):
            yield found


def _lacks(one: Requirement) -> str:
    """Return what the environment lacks for the requirement *one*; empty if it lacks nothing."""
    try:
        found = metadata.version(one.name)
    except metadata.PackageNotFoundError:
        return f"{one.name} is not installed"
    return (
        "" if one.specifier.contains(found, prereleases=True) else f"{one.name} must be {one.specifier}; found {found}"
    )


def engines() -> Iterator[tuple[Backend, Check]]:
    """Yield every engine that can run as a process, with the check of its environment and version."""
    for name in registry.BACKENDS:
        made = backends.named(name)
        if made.package is None:
            continue
        try:
            python = environments.interpreter(made)
        except LongctxError:
            install = f"longctx engine {name}" if made.install else "pip install the engine into a separate environment"
            cure = f"{install}{made.elsewhere}"
            yield made, Check(name, "missing", "not installed", cure)
        else:
            yield made, engine(made, python)


def engine(made: Backend, python: Path) -> Check:
    """
    Return the check of the environment of *python*, which has the package of the engine *made* and must also have
    PyTorch.
    """
    said = f"{environments.installed_version(made, python)} in {python.parent.parent}"
    if environments.installed_version(_Torch(), python) is None:
        return Check(made.name, "missing", f"{said}, but no PyTorch", f"{python} -m pip install torch")
    return Check(made.name, "ok", said)


class _Torch(Backend):
    """PyTorch as a backend, so that its environment is found as that of an engine."""

    name = package = "torch"
    distributions = ("torch",)


def processor(machine: Machine) -> Check:
    """Return the check of the CPU's instruction sets, which decide the kernels of an engine's CPU build."""
    flags = machine.cpu_flags
    name = machine.facts.get("host_cpu_name", machine.facts.get("host_cpu", "unknown"))
    cores = machine.facts.get("host_cores", "?")
    if flags is None:
        return Check("CPU", "limited", f"{name}, {cores} cores; the instruction sets of the CPU cannot be read")
    sets = " ".join(sorted(flags)) or "no AVX2"
    said = f"{name}, {cores} cores: {sets}"
    if flags & {"amx_bf16", "avx512_bf16", "bf16"}:
        return Check("CPU", "ok", said)
    if "avx512f" in flags:
        less = "no instructions for bfloat16"
    else:
        less = "no AVX-512 and no AMX: bfloat16 is slow, and findings that need them are out of scope"
    return Check("CPU", "limited", f"{said}; {less}", 'dtype = "float32" or "fastest" in deployments of vllm-cpu')


def accelerators(machine: Machine) -> Check:
    """Return the check of the accelerators that the vendors' tools report, with their driver."""
    if "devices" in machine.facts:
        found = machine.facts["devices"]
        if machine.hardware is None:
            return Check("accelerator", "limited", f"not recognised: {found}", "--longctx-hardware, as in 1x80GiB")
        return Check("accelerator", "ok", f"{machine.hardware}: {found}")
    for file, tool in (("nvidiactl", "nvidia-smi"), ("kfd", "rocm-smi"), ("neuron0", "neuron-ls")):
        if Path("/dev", file).exists():
            state = "fails" if shutil.which(tool) else "is not on the path"
            cure = f"the driver's own {tool}; in a container, the vendor's container runtime, which mounts this tool"
            return Check("accelerator", "wrong", f"/dev/{file} exists, but {tool} {state}", cure)
    return Check("accelerator", "missing", "none; findings about GPUs are out of scope here", "a machine with one")


def memory(machine: Machine, available: float | None) -> Check:
    """Return the check of the host's memory, or of the container's limit. *available* is the number of free bytes now."""
    if machine.host_bytes is None:
        return Check("memory", "limited", "it cannot be read")
    free = min(machine.host_bytes, machine.host_bytes if available is None else available)
    said = f"{machine.host_bytes / GiB:.1f} GiB" + ("" if available is None else f", {free / GiB:.1f} GiB available")
    if free < _LITTLE_MEMORY:
        return Check("memory", "limited", said, "end other programs, or raise the container's limit (--memory)")
    return Check("memory", "ok", said)


def available_bytes(info: Path = Path("/proc/meminfo")) -> float | None:
    """Return the memory that programs can still allocate, in bytes; None if unknown."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", info.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else float(found[1]) * 1024


def shared_memory(size: int | None, devices: int) -> Check:
    """
    Return the check of the size of ``/dev/shm`` in bytes, through which an engine on several *devices* exchanges
    tensors.
    """
    if size is None:
        return Check(_SHM, "limited", "there is none", "mount a tmpfs at /dev/shm")
    said = f"{size / GiB:.2f} GiB"
    cure = "docker run --shm-size=10g; in Kubernetes an emptyDir of medium Memory at /dev/shm"
    if size <= _NO_SHM or (devices > 1 and size < _LITTLE_SHM):
        return Check(_SHM, "limited", f"{said}: too little for an engine of several processes", cure)
    return Check(_SHM, "ok", said)


def disk(what: str, folder: Path, free: int | None) -> Check:
    """Return the check of the disk of *folder*, with *free* bytes."""
    if free is None:
        return Check(what, "wrong", f"{folder} cannot be written", "LONGCTX_HOME=FOLDER, where FOLDER is writable")
    said = f"{free / GiB:.1f} GiB free for {folder}"
    if free < _LITTLE_DISK:
        return Check(what, "limited", f"{said}; engines and models take several GiB", "LONGCTX_HOME on another disk")
    return Check(what, "ok", said)


def free_bytes(folder: Path) -> int | None:
    """
    Return the free bytes on the disk of *folder*, to check this machine; None if the folder cannot be created or
    written.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return None
    return shutil.disk_usage(there).free


def containers() -> Check:
    """Return the check of this machine's Docker engine, reached as by the launcher."""

    def version() -> str:
        engine, _ = docker.connect(docker.DockerLauncher().socket)
        try:
            return f"Docker {engine.version().get('Version', '')}"
        finally:
            engine.close()

    return _reached("Docker", version)


def cluster() -> Check:
    """Return the check of this user's Kubernetes cluster, reached as by the launcher."""
    return _reached("Kubernetes", lambda: (found := Cluster(None)).host + f" {found.version}")


def _reached(name: str, version: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", version())
    except LongctxError as problem:
        said, _, cure = str(problem).partition("\n  try      ")
        return Check(name, "missing", " ".join(said.split()), cure)
    except Exception as problem:  # noqa: BLE001 - whatever the vendor's client raises is the finding
        return Check(name, "missing", f"{type(problem).__name__}: {problem}"[:200])


def every(machine: Machine) -> dict[str, Any]:
    """Return all checks by section, in the order of the output, and the usable backends."""
    found = list(engines())
    shm = Path(_SHM)
    devices = machine.hardware.count if machine.hardware and machine.hardware.kind != "cpu" else 0
    here, kept = Path.cwd(), paths.kept()
    return {
        "usable": [made for made, check in found if check.word == "ok"],
        "package": list(versions()),
        "machine": [
            accelerators(machine),
            processor(machine),
            memory(machine, available_bytes()),
            shared_memory(shutil.disk_usage(shm).total if shm.is_dir() else None, devices),
            disk("disk, engines", kept, free_bytes(kept)),
            disk("disk, results", here, free_bytes(here)),
        ],
        "engines": [check for _, check in found],
        "launchers": [containers(), cluster()],
    }
