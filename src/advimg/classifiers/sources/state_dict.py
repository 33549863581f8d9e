"""Weights from a file into a network, without ever running what the file holds."""

import hashlib
import io
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advimg.errors import ClassifierError, first_line, unreadable

# A checkpoint may hold the optimiser's state and averages of the weights beside them, in twice the precision.
_TIMES = 16
_BESIDE = 256 << 20


def weights_sha256(*paths: Path) -> str:
    """Return the SHA-256 of a weights file, or of the bytes of several, one after the other, in hexadecimal.

    Raises:
        ClassifierError: a file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise _unreadable(path, error) from error
    return digest.hexdigest()


def most_bytes(network: nn.Module) -> int:
    """Return how many bytes the checkpoint of a network may have."""
    tensors = (*network.parameters(), *network.buffers())
    return _TIMES * sum(tensor.numel() * tensor.element_size() for tensor in tensors) + _BESIDE


@dataclass(frozen=True, eq=False, slots=True)
class StateDict:
    """Weights, and the hash of the very bytes that they were read from.

    Attributes:
        tensors: by their names; they are in memory, whatever becomes of the file.
        sha256: of the file, in hexadecimal.
    """

    tensors: Mapping[str, Tensor]
    sha256: str


def read_state_dict(path: Path, *, most: int = _BESIDE, digits: str = "") -> StateDict:
    """Read a state dict (``.pth``, ``.pt``, ``.safetensors``); pickled code is refused, not run.

    The state dict may lie under a key such as ``state_dict`` or ``model``, and its names may have the prefix of a
    wrapper, such as ``module.`` or ``_orig_mod.``.

    Args:
        path: of the file, which is read once.
        most: how many bytes it, and what it unpacks to, may have.
        digits: the first digits that its hash must have.

    Raises:
        ClassifierError: the file is missing, too large, damaged, holds code, or is no state dict.
    """
    data = _bytes_of(path, most)
    sha256 = hashlib.sha256(data).hexdigest()
    check_hash(path, sha256, digits)
    loaded = _from_safetensors(path, data) if path.suffix.lower() == ".safetensors" else _from_pickle(path, data, most)
    state = _unwrapped(loaded)
    if state is None:
        raise ClassifierError(
            f"{path} is no state dict (names to tensors); save one with torch.save(m.state_dict(), …)"
        )
    _check_tensors(path, state, most)
    return StateDict(_unprefixed(state), sha256)


def check_hash(path: Path, sha256: str, digits: str) -> None:
    """Check the hash of published weights.

    Raises:
        ClassifierError: it is another.
    """
    if not sha256.startswith(digits):
        raise ClassifierError(f"the weights {path} are damaged (their hash is not {digits}…); delete that file")


def fill(network: nn.Module, state: Mapping[str, Tensor], *, source: Path) -> None:
    """Replace a network's tensors, which may be on the meta device, by those of a state dict, in 32-bit.

    Raises:
        ClassifierError: names or shapes do not fit.
    """
    own = network.state_dict()
    missing = [f"{key} is missing" for key in own if key not in state and not key.endswith("num_batches_tracked")]
    misfits = [misfit for key in own if key in state and (misfit := _misfit(key, state[key], own[key]))]
    problems = missing + misfits + [f"{_shown(key)} is not known" for key in state if key not in own]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ClassifierError(f"the weights {source} do not fit the network: {'; '.join(problems[:3])}{more}")
    try:
        network.load_state_dict(state, strict=False, assign=True)
    except Exception as error:  # layers have code of their own for this
        raise ClassifierError(f"the weights {source} do not fit the network: {first_line(error)}") from error
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
    seen: set[int] = set()
    while isinstance(loaded, dict) and id(loaded) not in seen:
        seen.add(id(loaded))  # a pickle may hold itself
        # dict's own methods: a pickle may give an OrderedDict attributes of their names.
        values = dict(dict.items(loaded))
        if values and all(isinstance(value, Tensor) for value in values.values()):
            return _with_versions(values, loaded) if all(isinstance(key, str) for key in values) else None
        loaded = next((values[key] for key in _WRAPPERS if isinstance(values.get(key), dict)), None)
    return None


def _with_versions(state: Mapping[str, Tensor], loaded: object) -> Mapping[str, Tensor]:
    """Return a state dict with the versions of its layers, which some of them read from ``_metadata``."""
    versioned: Any = OrderedDict(state)
    metadata = getattr(loaded, "__dict__", {}).get("_metadata")
    if isinstance(metadata, dict):
        versioned._metadata = {
            name: {"version": entry["version"]}
            for name, entry in dict.items(metadata)
            if isinstance(name, str) and isinstance(entry, dict) and type(entry.get("version")) is int
        }
    tensors: Mapping[str, Tensor] = versioned
    return tensors


def _unprefixed(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Remove the prefixes that wrappers add to all names (DataParallel, torch.compile, training loops)."""
    while prefix := next((each for each in _PREFIXES if all(key.startswith(each) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _check_tensors(path: Path, state: Mapping[str, Tensor], most: int) -> None:
    """Refuse tensors that are no plain memory of the file, before anything is done with their sizes.

    A few bytes with strides of zero are a tensor of any size, until somebody copies it.
    """
    total = 0
    for key, tensor in state.items():
        odd = tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested
        size = 0 if odd else tensor.numel() * tensor.element_size()
        if odd or size > tensor.untyped_storage().nbytes():
            raise ClassifierError(f"the weights {path} cannot be used: {_shown(key)} is not an ordinary tensor")
        total += size
    if total > most:
        raise _too_large(path, most)


def _bytes_of(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _unreadable(path, error) from error
    if len(data) > most:
        raise _too_large(path, most)
    return data


def _unreadable(path: Path, error: Exception) -> ClassifierError:
    if isinstance(error, FileNotFoundError):
        return ClassifierError(f"there is no weights file {path}; check the path")
    return ClassifierError(unreadable(f"the weights {path}", error))


def _too_large(path: Path, most: int) -> ClassifierError:
    return ClassifierError(f"the weights {path} are too large for this network: more than {most >> 20} MB")


def _shown(key: str) -> str:
    """Return a name from a file as it can stand in a line."""
    return key if key.isprintable() and len(key) <= 80 else f"{key[:80]!r}"


def _misfit(key: str, value: Tensor, own: Tensor) -> str | None:
    """Return why a tensor cannot replace a network's own; None if it can."""
    if value.shape != own.shape:
        return f"{key} is {list(value.shape)}, not {list(own.shape)}"
    if value.is_floating_point() != own.is_floating_point():
        return f"{key} holds {str(value.dtype).removeprefix('torch.')}, not {str(own.dtype).removeprefix('torch.')}"
    return None


def _from_safetensors(path: Path, data: bytes) -> object:
    try:
        from safetensors.torch import load
    except ImportError:
        raise ClassifierError(f"{path} needs the package safetensors: pip install safetensors") from None
    try:
        return load(data)
    except Exception as error:  # its own, and those of what it is made of
        raise ClassifierError(f"the weights {path} are damaged: {first_line(error)}") from error


def _from_pickle(path: Path, data: bytes, most: int) -> object:
    try:
        pickled = _pickle_of(path, data, most)
        # The one thing it may hold that makes much of little: so many zeros.
        if b"builtins\nbytearray\n" in pickled:
            raise ClassifierError(f"{path} is not a plain state dict")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kinds of tensors that are refused anyway
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except ClassifierError:
        raise
    except (RuntimeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ClassifierError(f"the weights {path} are damaged or of another kind than a state dict") from error
    except Exception as error:  # bytes that are no pickle make the unpickler raise nearly anything
        raise ClassifierError(
            f"{path} is not a plain state dict; it is damaged or holds code, which is never run"
        ) from error


def _pickle_of(path: Path, data: bytes, most: int) -> bytes:
    """Return the pickle in a checkpoint: a record of a zip file, torch.save's format since 1.6, or all of it.

    Raises:
        ClassifierError: the zip file is a program, or unpacks to more than ``most`` bytes.
    """
    stream = io.BytesIO(data)
    if not (data.startswith(b"PK") or zipfile.is_zipfile(stream)):
        return data
    with zipfile.ZipFile(stream) as archive:
        records = archive.infolist()
        # Both are zip files, but only a program brings its code.
        if any("/code/" in record.filename for record in records):
            raise ClassifierError(
                f"{path} is a TorchScript program, which is never run; save its state dict with "
                "torch.save(m.state_dict(), …)"
            )
        if sum(record.file_size for record in records) > most:
            raise _too_large(path, most)
        return b"".join(archive.read(record) for record in records if record.filename.endswith(".pkl"))
