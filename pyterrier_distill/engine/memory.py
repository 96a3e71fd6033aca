"""Memory that is kept, or not looked through, while much is made.

Each step of training a small model allocates and frees its largest gradients, such as the 47 MB of MiniLM's word
embeddings. glibc hands blocks of that size back to the kernel at once, and the kernel clears every page of them again
at the next step: a quarter of the time of a step, measured on two cores.
"""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _TOP_PAD: 0, _MMAP_MAX: 65536}
_KEEPING = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 256 * 1024 * 1024, _MMAP_MAX: 0}


@contextmanager
def kept(wanted: bool) -> Iterator[None]:
    """Within the block, memory that is freed stays with the process. Does nothing where malloc is not glibc's.

    Args:
        wanted: whether to; a GPU's memory has an allocator of its own.
    """
    glibc = ctypes.CDLL(None) if wanted and platform.libc_ver()[0] == "glibc" else None
    try:
        if glibc is not None:
            for option, value in _KEEPING.items():
                glibc.mallopt(option, value)
        yield
    finally:
        if glibc is not None:
            for option, value in _DEFAULTS.items():
                glibc.mallopt(option, value)
            glibc.malloc_trim(0)


@contextmanager
def uncollected() -> Iterator[None]:
    """Within the block, Python does not look for cycles.

    It would at every 700th object or so, through all there are: making ten times the objects takes more than ten times
    the time.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
