"""Devices, and the arithmetic on them: the same numbers every time, whatever the caller has set."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn

from advimg.errors import AdvimgError, ClassifierError, UsageError, first_line


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


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out: numpy's, a GPU's, or that of torch's allocator for CPUs."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


@contextmanager
def failing_as(what: str) -> Iterator[None]:
    """Turn an error of other people's code into one line.

    Args:
        what: what fails, for a person: the line's beginning.

    Raises:
        ClassifierError: in the place of any error that is not advimg's own, unless memory ran out.
    """
    try:
        yield
    except AdvimgError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ClassifierError(f"{what}: {first_line(error)}") from error


def takes_channels_last(network: nn.Module) -> bool:
    """Tell whether a network's tensors can be laid out for convolutions of pictures; torch refuses those of volumes."""
    return all(tensor.dim() != 5 for tensor in (*network.parameters(), *network.buffers()))


@contextmanager
def differentiable() -> Iterator[None]:
    """Record gradients, also where the caller has switched that off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


class _Shared:
    """A change that several threads hold together: the first makes it, the last takes it back.

    Args:
        change: makes it, and returns what takes it back.
    """

    def __init__(self, change: Callable[[], Callable[[], None]]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._holders = 0
        self._undo: Callable[[], None] = _nothing

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the change while the context lasts."""
        with self._lock:
            if self._holders == 0:
                self._undo = self._change()
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0:
                    self._undo()
                    self._undo = _nothing


def _nothing() -> None:
    """Take nothing back."""


@contextmanager
def repeatable(device: torch.device, *, exact: bool) -> Iterator[None]:
    """Make a network give the same numbers every time, whatever the caller has set; what was set is restored.

    Autocast is off, and products and new tensors are 32-bit. Convolutions on CUDA are deterministic, and only one
    thread at a time is in such a context there: cuDNN's settings are those of the process.

    Args:
        device: where the network runs.
        exact: whether convolutions on CUDA are in full 32-bit; cuDNN's default is TF32, which keeps 10 bits.
    """
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(_CUDNN)
            stack.enter_context(_cudnn_settings(exact=exact))
        stack.enter_context(_PLAIN_ARITHMETIC.held())
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def evaluated(network: nn.Module) -> Iterator[None]:
    """Have a network in eval mode while the context lasts; modules that were in training mode are so again after it."""
    with _EVALUATED_LOCK:
        mode = _EVALUATED.get(network)
        if mode is None:
            mode = _EVALUATED[network] = _Shared(partial(_to_eval_mode, ref(network)))
    with mode.held():
        yield


def _to_eval_mode(network: "ref[nn.Module]") -> Callable[[], None]:
    """Put the modules of a network into eval mode, whatever they do when they are told to; return the way back."""
    # A weak reference, because what is kept for a network must not keep the network.
    whole = network()
    modules = [] if whole is None else [module for module in whole.modules() if module.training]
    for module in modules:
        module.training = False

    def undo() -> None:
        for module in modules:
            module.training = True

    return undo


def _to_plain_arithmetic() -> Callable[[], None]:
    """Compute in 32 bits; return the way back. What is as it should be is not touched."""
    dtype = torch.get_default_dtype()
    backends: Any = torch.backends
    owners = (backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv)
    before = [(owner, owner.fp32_precision) for owner in owners if owner.fp32_precision not in ("none", "ieee")]
    if dtype != torch.float32:
        torch.set_default_dtype(torch.float32)
    for owner, _ in before:
        owner.fp32_precision = "ieee"

    def undo() -> None:
        if dtype != torch.float32:
            torch.set_default_dtype(dtype)
        for owner, precision in before:
            owner.fp32_precision = precision

    return undo


@contextmanager
def _cudnn_settings(*, exact: bool) -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    wanted = (
        (cudnn, "benchmark", False),
        (cudnn, "deterministic", True),
        (cudnn.conv, "fp32_precision", "ieee" if exact else "tf32"),
    )
    before = [getattr(owner, attribute) for owner, attribute, _ in wanted]
    try:
        for owner, attribute, setting in wanted:
            setattr(owner, attribute, setting)
        yield
    finally:
        for (owner, attribute, _), setting in zip(wanted, before, strict=True):
            setattr(owner, attribute, setting)


_PLAIN_ARITHMETIC = _Shared(_to_plain_arithmetic)
_EVALUATED: WeakKeyDictionary[nn.Module, _Shared] = WeakKeyDictionary()
_EVALUATED_LOCK = threading.Lock()
# Held for as long as cuDNN's settings are changed. A thread may enter again: judging is a part of attacking.
_CUDNN = threading.RLock()
