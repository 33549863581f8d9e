"""How many photos share a pass: what the device's memory has room for, and what to do when it had not."""

import os
from dataclasses import dataclass
from typing import Literal

import torch

BatchSize = int | Literal["auto"]

# Beyond this the time of a pass grows with the photos in it: on a CPU soon, on a GPU once all its units are busy.
_MOST = {"cpu": 8, "mps": 16, "cuda": 64}
# A prediction at what a photo costs inside a large network; where it is too low, passes are halved.
_BYTES_A_PASS = 1 << 28
# Three planes of three 32-bit floats, two of levels, and the photo and the result beside them.
_BYTES_A_PIXEL = 50
_UNKNOWN = 8 << 30


@dataclass(slots=True)
class Capacity:
    """How much an engine takes at a time.

    Attributes:
        batch_size: how many photos share a pass.
        pixels: how many pixels all live photos together may have; one photo is always let in.
    """

    batch_size: int
    pixels: int

    @classmethod
    def of(cls, device: torch.device, batch_size: BatchSize) -> "Capacity":
        """Return the room of a device, with the batch size asked for."""
        memory = _memory(device)
        fitting = max(1, memory // 4 // _BYTES_A_PASS)
        size = min(_MOST[device.type], fitting) if batch_size == "auto" else batch_size
        return cls(size, memory // 4 // _BYTES_A_PIXEL)


def free_cached(device: torch.device) -> None:
    """Give back to the device what torch keeps for later, so that a smaller pass finds room."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _memory(device: torch.device) -> int:
    """Return the bytes that are free on a GPU, or that the machine has."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    return machine_memory()


def machine_memory() -> int:
    """Return the bytes of memory that the machine has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return _UNKNOWN
