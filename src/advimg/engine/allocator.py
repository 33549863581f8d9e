"""Memory that stays with the process: a pass frees what the next one needs again."""

import ctypes
import sys

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 1 << 30


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, instead of handing it back to the system and asking for it again.

    A network's pass allocates and frees the same tensors each time. glibc gives every block above 32 MB back at once,
    and zeroed pages that are new to the process cost more than what is computed on them: a gradient of eight photos
    took half as long again. For the whole process, so only a command line should call it. Elsewhere than on glibc
    it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _KEPT)
        mallopt(_TRIM_THRESHOLD, _KEPT)
