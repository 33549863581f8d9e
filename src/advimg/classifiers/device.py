"""Devices, and the exactness of convolutions on them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from advimg.errors import ClassifierError, UsageError


def find_device(name: str = "auto") -> torch.device:
    """Return a device by name; "auto" is CUDA if there is one, then MPS, else the CPU.

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
def differentiable() -> Iterator[None]:
    """Record gradients, also where the caller has switched that off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def repeatable(device: torch.device, *, exact: bool) -> Iterator[None]:
    """Make convolutions on CUDA give the same numbers every time, as they do elsewhere.

    Args:
        device: where the convolutions run.
        exact: whether they are computed in full 32-bit; cuDNN's default is TF32, which keeps 10 bits.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    # torch 2.9 has a new switch for TF32, and refuses to mix it with the old one.
    switch, name, value = (
        (cudnn.conv, "fp32_precision", "ieee" if exact else "tf32")
        if hasattr(cudnn, "conv")
        else (cudnn, "allow_tf32", not exact)
    )
    wanted = ((cudnn, "benchmark", False), (cudnn, "deterministic", True), (switch, name, value))
    before = [getattr(owner, attribute) for owner, attribute, _ in wanted]
    try:
        for owner, attribute, setting in wanted:
            setattr(owner, attribute, setting)
        yield
    finally:
        for (owner, attribute, _), setting in zip(wanted, before, strict=True):
            setattr(owner, attribute, setting)
