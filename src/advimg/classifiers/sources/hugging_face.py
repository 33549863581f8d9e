"""Image classifiers of Hugging Face (the extra ``hf``), each judged by its own, unmodified image processor.

Names begin with ``hf:``: ``hf:google/vit-base-patch16-224``, or ``hf:./folder`` for what ``save_pretrained`` wrote.
Code that a repository brings is never run, and pickled weights are never read. transformers is imported on first use.

The verdict is that of the model in 32 bits on the processor's ``pixel_values``: what
``pipeline("image-classification")`` says of the same file.
"""

import importlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.processors import described
from advimg.classifiers.sources.base import Listed, Published, Source, register
from advimg.classifiers.sources.state_dict import files_sha256
from advimg.errors import ClassifierError, UsageError, first_line
from advimg.labels import Labels

PREFIX = "hf:"
TIMM_PREFIX = "hf-hub:"
"""How timm names models of the hub; transformers runs them with timm and its transforms."""
_SMALL_FILES = ("*.json", "*.txt", "*.model")
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_CONFIG = "config.json"
_LOGGERS = "transformers", "huggingface_hub"


def find(name: str) -> Published:
    """Return what a repository or a folder publishes.

    Raises:
        UsageError: it is no image classifier.
        ClassifierError: transformers is not installed, the files cannot be had, or the image processor does what is not
            supported.
    """
    folder = folder_of(name, PREFIX)
    config = _config(name, folder)
    preprocessing = _preprocessing(name, folder, _changed(folder))
    return Published(
        name=recorded_name(name, folder, PREFIX),
        build=partial(_not_built, name),
        preprocessing=preprocessing,
        labels=Labels(str(config.id2label[index]) for index in range(config.num_labels)),
        fetch=lambda progress: weights_of(name, folder, PREFIX, progress=progress),
        sha256=sha256_of,
        load=lambda path, size: _loaded(name, path.parent),  # noqa: ARG005
    )


def names() -> Iterator[str]:
    """Yield the names of the classifiers that are in Hugging Face's cache."""
    return (each.name for each in listed())


def listed() -> Iterator[Listed]:
    """Yield the classifiers that are in Hugging Face's cache.

    Raises:
        ClassifierError: transformers is not installed.
    """
    transformers()
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda each: each.repo_id):
        files = {file.file_name: file.file_path for revision in repository.revisions for file in revision.files}
        if repository.repo_type == "model" and _CONFIG in files and _is_classifier(_json(files[_CONFIG])):
            yield Listed(
                name=f"{PREFIX}{repository.repo_id}",
                input_size=None,
                parameters=None,
                top1=None,
                on_disk=_WEIGHTS in files or _INDEX in files,
            )


register(Source(prefix=PREFIX, names=names, find=find, listed=listed))
register(
    Source(
        prefix=TIMM_PREFIX,
        names=lambda: (f"{TIMM_PREFIX}{each.removeprefix(PREFIX)}" for each in names()),
        find=lambda name: find(f"{PREFIX}{name.removeprefix(TIMM_PREFIX)}"),
        listed=listed,
    )
)


def transformers() -> Any:
    """Return the package transformers, which is imported on first use.

    Raises:
        ClassifierError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise ClassifierError("Hugging Face's models need transformers: pip install 'advimg-cli[hf]'") from None
    return transformers


def folder_of(name: str, prefix: str) -> Path:
    """Return the folder of a model's files, after a download of the small ones on first use.

    Args:
        name: of a repository (``hf:google/vit-base-patch16-224``) or of a folder (``hf:./folder``).
        prefix: what the name begins with.

    Raises:
        UsageError: no such folder.
        ClassifierError: transformers is not installed, or the files are not on disk and cannot be fetched.
    """
    transformers()
    base = name.removeprefix(prefix)
    path = Path(base).expanduser()
    if base.startswith((".", "~", os.sep)) or (path / _CONFIG).is_file():
        if not (path / _CONFIG).is_file():
            raise UsageError(f"{name}: {path} is no folder of a model; a file {_CONFIG} was expected in it")
        return path.absolute()
    from huggingface_hub import try_to_load_from_cache

    known = _hub(name, base, partial(try_to_load_from_cache, base, _CONFIG))
    return Path(known).parent if isinstance(known, str) else _fetched(name, base, _SMALL_FILES)


def weights_of(name: str, folder: Path, prefix: str, *, progress: bool) -> Path:
    """Return the file of a model's weights, or the index of several, after a download on first use.

    Raises:
        ClassifierError: there are none in safetensors, or they cannot be fetched.
    """
    base = name.removeprefix(prefix)
    known = _weights_in(folder)
    fetch = ""
    if known is None and not Path(base).expanduser().is_dir():
        known = _weights_in(_fetched(name, base, (*_SMALL_FILES, "*.safetensors"), progress=progress))
        fetch = f" on disk (where there is a network, `hf download {base}` fetches them)"
    if known is None:
        raise ClassifierError(f"{name} has no weights in safetensors{fetch}; others may hold code, and are not read")
    return known


def sha256_of(weights: Path) -> str:
    """Return the hash of a file of weights; of an index, that of it and of the files that it names, in their order.

    Raises:
        ClassifierError: one cannot be read.
    """
    parts = (_json(weights) or {}).get("weight_map", {}) if weights.name == _INDEX else {}
    return files_sha256([weights, *(weights.parent / Path(part).name for part in sorted(set(parts.values())))])


def recorded_name(name: str, folder: Path, prefix: str) -> str:
    """Return the name of a model in records, which tell nothing of the folders on a disk."""
    local = Path(name.removeprefix(prefix)).expanduser().is_dir()
    return f"{prefix}{folder.resolve().name}" if local else name


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers and the hub's client from writing to the terminal."""
    hub: Any = importlib.import_module("huggingface_hub.utils")
    loggers = [logging.getLogger(each) for each in _LOGGERS]
    levels = [logger.level for logger in loggers]
    shown = not hub.are_progress_bars_disabled()
    own = transformers().utils.logging
    bars = own.is_progress_bar_enabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        hub.disable_progress_bars()
        own.disable_progress_bar()
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if shown:
            hub.enable_progress_bars()
        if bars:
            own.enable_progress_bar()


def processor_of(name: str, folder: Path) -> tuple[Any, Callable[[Image.Image], Any]]:
    """Return a model's image processor, and its official path from an RGB picture to ``pixel_values``.

    Raises:
        ClassifierError: there is none, or it needs code of the repository's own.
    """
    with quietly():
        try:
            processor = transformers().AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # the code of other people
            raise ClassifierError(f"{name} has no image processor that can be used: {_reason(error)}") from error

    def process(picture: Image.Image) -> Any:
        given = processor(images=picture, return_tensors="pt")
        others = sorted(set(given) - {"pixel_values"})
        if others:
            raise ClassifierError(f"it makes more than pixel_values: {', '.join(others)}")
        return given["pixel_values"]

    return processor, process


class _Logits(nn.Module):
    """A model of transformers as a map from pixel_values [n, 3, height, width] to logits [n, classes]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=pictures).logits
        return logits


def _config(name: str, folder: Path) -> Any:
    """Return a model's configuration.

    Raises:
        UsageError: it is no image classifier of one class a picture.
        ClassifierError: it cannot be read without code of its own.
    """
    _check_task(name, folder)
    with quietly():
        try:
            config = transformers().AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # the code of other people
            raise ClassifierError(f"{name} cannot be loaded: {_reason(error)}") from error
    if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
        kind = config.problem_type or f"of {config.num_labels} outputs"
        raise UsageError(f"{name} does not choose one class of several (it is {kind}), so it has no top-1 to change")
    return config


def _check_task(name: str, folder: Path) -> None:
    values = _json(folder / _CONFIG)
    if values is None:
        raise ClassifierError(f"{name}: {folder / _CONFIG} is no configuration of a model")
    if _is_classifier(values):
        return
    made_for = ", ".join(map(str, values.get("architectures") or [])) or str(values.get("model_type"))
    hint = "; clip:NAME classifies by words that you give" if "CLIP" in made_for or "Siglip" in made_for else ""
    raise UsageError(f"{name} is no image classifier but a {made_for}{hint}")


def _is_classifier(config: dict[str, Any] | None) -> bool:
    architectures = (config or {}).get("architectures") or []
    return any("ForImageClassification" in str(each) for each in architectures) or "num_classes" in (config or {})


def _json(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _changed(folder: Path) -> tuple[int, ...]:
    """Return when the files were written that say what a processor does."""
    return tuple(path.stat().st_mtime_ns for path in sorted(folder.glob("*.json")))


@lru_cache(maxsize=16)
def _preprocessing(name: str, folder: Path, changed: tuple[int, ...]) -> Preprocessing:  # noqa: ARG001
    processor, process = processor_of(name, folder)
    return described(process, processor, name)


def _not_built(name: str, classes: int, size: int) -> nn.Module:  # noqa: ARG001
    raise ClassifierError(
        f"{name} comes with its weights; for others, put the model's files into a folder: -m hf:FOLDER"
    )


def _loaded(name: str, folder: Path) -> nn.Module:
    with quietly():
        try:
            model, info = transformers().AutoModelForImageClassification.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # the code of other people
            raise ClassifierError(f"{name} cannot be loaded: {_reason(error)}") from error
    wrong = sorted({*info["missing_keys"], *(key for key, *_ in info.get("mismatched_keys", ()))})
    if wrong:  # transformers would make them up
        raise ClassifierError(f"the weights of {name} lack {len(wrong)} tensors, such as {wrong[0]}")
    return _Logits(model)


def _weights_in(folder: Path) -> Path | None:
    return next((folder / file for file in (_WEIGHTS, _INDEX) if (folder / file).is_file()), None)


def _fetched(name: str, base: str, patterns: tuple[str, ...], *, progress: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    download = partial(snapshot_download, base, allow_patterns=list(patterns))
    if progress:
        return Path(_hub(name, base, download))
    with quietly():
        return Path(_hub(name, base, download))


def _hub(name: str, base: str, ask: Callable[[], Any]) -> Any:
    """Ask the hub's client.

    Raises:
        UsageError: the name is none that a repository can have.
        ClassifierError: what is asked for is neither on disk nor to be had.
    """
    from huggingface_hub.errors import HFValidationError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs each of its retries
    try:
        return ask()
    except HFValidationError as error:
        raise UsageError(f"{name} is no name of a repository, such as hf:google/vit-base-patch16-224") from error
    except Exception as error:  # the hub's client raises errors of several libraries
        raise ClassifierError(
            f"{name} is not on disk and cannot be downloaded ({_reason(error)[:150]}); where there is a network, "
            f"`hf download {base}` fetches it"
        ) from error


def _reason(error: Exception) -> str:
    if "trust_remote_code" in str(error) or "custom code" in str(error):
        return "it needs code of its own, which is never run"
    return first_line(error)
