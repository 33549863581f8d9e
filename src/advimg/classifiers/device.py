"""Where networks run, and how exactly."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from advimg.errors import ClassifierError, UsageError


def find_device(name: str = "auto") -> torch.device:
    """Return the device that ``name`` means: "auto" is CUDA if there is one, then MPS, else the CPU.

    Raises:
        UsageError: not a device's name.
        ClassifierError: this machine, or this build of torch, has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ClassifierError(f"device {name}: torch finds no CUDA GPU here; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ClassifierError(f"device {name}: there are {torch.cuda.device_count()} GPUs, counted from cuda:0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ClassifierError(f"device {name}: torch finds no Apple GPU here; use --device cpu")
    return device


@contextmanager
def repeatable(*, exact: bool) -> Iterator[None]:
    """Make convolutions on CUDA give the same numbers every time.

    Args:
        exact: whether they are computed in full 32-bit; cuDNN's default is TF32, which keeps 10 bits.
    """
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=not exact):
        yield
