"""The C allocator, told to keep what it was given."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def tune_allocator() -> bool:
    """Make glibc reuse large blocks instead of returning them to the kernel after each step.

    Half of a training step's time on a CPU is the kernel's, which clears fresh pages for every
    large tensor. Three mallopt calls end that, for this whole process: memory once used stays with
    it.

    Returns:
        Whether the C library took the settings; False elsewhere than on glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28))
    return all(mallopt(option, value) == 1 for option, value in settings)
