"""Weights from a file into a network, without ever running what the file holds."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from advimg.errors import ClassifierError
from advimg.images.files import file_sha256


def weights_sha256(path: Path) -> str:
    """Return the SHA-256 of a weights file, in hexadecimal.

    Raises:
        ClassifierError: the file is missing or cannot be read.
    """
    try:
        return file_sha256(path)
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ClassifierError(f"the weights {path} cannot be read: {reason}") from error


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """Read a state dict (``.pth``, ``.pt``, ``.safetensors``); pickled code is refused, not run.

    The state dict may lie under a key such as ``state_dict`` or ``model``, and its names may have the prefix of a
    wrapper, such as ``module.`` or ``_orig_mod.``.

    Raises:
        ClassifierError: the file is missing, damaged, holds code, or is no state dict.
    """
    if not path.exists():
        raise _missing(path)
    loaded = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path)
    state = _unwrapped(loaded)
    if state is None:
        raise ClassifierError(
            f"{path} is no state dict (names to tensors); save one with torch.save(m.state_dict(), …)"
        )
    return _unprefixed(state)


def fill(network: nn.Module, state: Mapping[str, Tensor], *, source: Path) -> None:
    """Replace a network's tensors, which may be on the meta device, by those of a state dict, in 32-bit.

    Raises:
        ClassifierError: names or shapes do not fit.
    """
    own = network.state_dict()
    missing = [f"{key} is missing" for key in own if key not in state and not key.endswith("num_batches_tracked")]
    misfits = [misfit for key in own if key in state and (misfit := _misfit(key, state[key], own[key]))]
    problems = missing + misfits + [f"{key} is not known" for key in state if key not in own]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ClassifierError(f"the weights {source} do not fit the network: {'; '.join(problems[:3])}{more}")
    network.load_state_dict(state, strict=False, assign=True)
    # Old checkpoints lack batch norm's counters, which only training reads.
    for name, buffer in list(network.named_buffers()):
        if buffer.is_meta and name.endswith("num_batches_tracked"):
            module_name, _, buffer_name = name.rpartition(".")
            network.get_submodule(module_name).register_buffer(buffer_name, torch.tensor(0))
    network.float()


_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")


def _unwrapped(loaded: object) -> Mapping[str, Tensor] | None:
    """Return what was loaded if it is a state dict, or the one under one of the usual keys; None without any."""
    if not isinstance(loaded, Mapping):
        return None
    if loaded and all(isinstance(value, Tensor) for value in loaded.values()):
        return loaded  # not a copy: some layers read the version they were saved by from its _metadata
    for key in _WRAPPERS:
        if isinstance(loaded.get(key), Mapping):
            return _unwrapped(loaded[key])
    return None


def _unprefixed(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Remove the prefixes that wrappers add to all names (DataParallel, torch.compile, training loops)."""
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            return _unprefixed({key.removeprefix(prefix): value for key, value in state.items()})
    return state


def _missing(path: Path) -> ClassifierError:
    return ClassifierError(f"there is no weights file {path}; check the path")


def _misfit(key: str, value: Tensor, own: Tensor) -> str | None:
    """Return why a tensor cannot replace a network's own; None if it can."""
    if value.shape != own.shape:
        return f"{key} is {list(value.shape)}, not {list(own.shape)}"
    if value.is_floating_point() != own.is_floating_point():
        return f"{key} holds {str(value.dtype).removeprefix('torch.')}, not {str(own.dtype).removeprefix('torch.')}"
    if value.layout != torch.strided or value.device.type != "cpu":
        return f"{key} is not an ordinary tensor"
    return None


def _read_safetensors(path: Path) -> object:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise ClassifierError(f"{path} needs the package safetensors: pip install safetensors") from None
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ClassifierError(f"the weights {path} are damaged: {error}") from error


def _read_pickle(path: Path) -> object:
    try:
        zipped = zipfile.is_zipfile(path)  # torch.save's format since 1.6, which can be mapped into memory
        if zipped and _is_torchscript(path):
            raise ClassifierError(
                f"{path} is a TorchScript program, which is never run; save its state dict with "
                "torch.save(m.state_dict(), …)"
            )
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except ClassifierError:
        raise
    except (RuntimeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ClassifierError(f"the weights {path} are damaged or of another kind than a state dict") from error
    except Exception as error:  # bytes that are no pickle make the unpickler raise nearly anything
        raise ClassifierError(
            f"{path} is not a plain state dict; it is damaged or holds code, which is never run"
        ) from error


def _is_torchscript(path: Path) -> bool:
    """Tell a program from tensors: both are zip files, but only a program brings its code."""
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())
