"""How many pictures share a pass: what the device's memory has room for, and what to do when it had not."""

import os
from dataclasses import dataclass
from heapq import nlargest
from typing import Literal

import torch

from advimg.engine.job import Job
from advimg.engine.paths import resize_crop_of
from advimg.engine.views import MOST_VIEWS
from advimg.transforms.base import check_size
from advimg.transforms.resampling import resize_axes

BatchSize = int | Literal["auto"]

# Beyond this the time of a pass grows with the pictures in it: on a CPU soon, on a GPU once all its units are busy.
_MOST = {"cpu": 8, "mps": 16, "cuda": 64}
# A prediction at what a picture costs inside a large network; where it is too low, passes are halved.
_BYTES_A_PASS = 1 << 28
# Three planes of three 32-bit floats, two of levels, and the photo and the result beside them.
_BYTES_A_PIXEL = 50
# A change keeps what its transforms make of the photo until the gradient has come back (four bytes a pixel in PIL); of
# one at a time the gradient is on its way, which takes most through JPEG and WebP (measured: 98 to 114).
_BYTES_A_CHANGED_PIXEL = 4
_BYTES_ON_THE_WAY_BACK = 110
_UNKNOWN = 8 << 30


@dataclass(slots=True)
class Capacity:
    """How much an engine takes at a time.

    Attributes:
        batch_size: how many pictures share a pass: photos, and what changes that they are to survive make of them.
        memory: bytes in all. All live photos together may take a quarter; one photo is always let in, unless its
            changes take more than all.
    """

    batch_size: int
    memory: int

    @classmethod
    def of(cls, device: torch.device, batch_size: BatchSize) -> "Capacity":
        """Return the room of a device, with the batch size asked for."""
        memory = _memory(device)
        fitting = max(1, memory // 4 // _BYTES_A_PASS)
        size = min(_MOST[device.type], fitting) if batch_size == "auto" else batch_size
        return cls(size, memory)


def bytes_of(job: Job) -> int:
    """Return about how many bytes an attack takes besides the network.

    Raises:
        UsageError: as :func:`advimg.transforms.base.check_size`.
    """
    width, height = job.photo.size
    return _BYTES_A_PIXEL * width * height + bytes_of_changes(job)


def bytes_of_changes(job: Job) -> int:
    """Return about how many of these the changes take that the file is to survive.

    Raises:
        UsageError: as :func:`advimg.transforms.base.check_size`.
    """
    chains = [
        [width * height for width, height in check_size(case, *job.photo.size, source=job.photo.source)]
        for case in job.settings.cases
    ]
    kept = sum(nlargest(MOST_VIEWS - 1, (sum(chain[1:]) for chain in chains)))
    return _BYTES_A_CHANGED_PIXEL * kept + _BYTES_ON_THE_WAY_BACK * max(map(max, chains), default=0)


def free_cached(device: torch.device) -> None:
    """Give back to the device what is kept for later, here and by torch, so that a smaller pass finds room."""
    resize_axes.cache_clear()
    resize_crop_of.cache_clear()
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
