"""Image classifiers of Hugging Face (the extra ``hf``), each judged by its own, unmodified image processor.

Names begin with ``hf:``: ``hf:google/vit-base-patch16-224``, or ``hf:./folder`` for what ``save_pretrained`` wrote.
Code that a repository brings is never run, and pickled weights are never read. transformers is imported on first use.

The verdict is that of the model in 32 bits on the processor's ``pixel_values``: what
``pipeline("image-classification")`` says of the same file. For weights that are stored in 16 bits, which a pipeline
computes in, that is a pipeline made with ``dtype=torch.float32``.
"""

import importlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.processors import described, written
from advimg.classifiers.sources.base import Listed, Published, Source, register
from advimg.classifiers.sources.state_dict import weights_sha256
from advimg.errors import ClassifierError, UsageError, first_line
from advimg.labels import Labels

PREFIX = "hf:"
TIMM_PREFIX = "hf-hub:"
"""How timm names models of the hub; transformers runs them with timm and its transforms."""
_SMALL_FILES = ("*.json", "*.txt", "*.model")
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
WEIGHTS = _WEIGHTS, _INDEX
"""The files of which a model has one: its weights, or the index of several."""
CONFIG = "config.json"
# Where an image processor is described; timm's own form has all in the configuration.
_PROCESSORS = "preprocessor_config.json", "processor_config.json"
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
    preprocessing = preprocessing_of(name, folder)
    return Published(
        name=recorded_name(name, folder, PREFIX),
        build=partial(_not_built, name),
        preprocessing=preprocessing,
        labels=_labels(name, config),
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
        if repository.repo_type == "model" and CONFIG in files and _is_classifier(json_of(files[CONFIG])):
            yield Listed(
                name=f"{PREFIX}{repository.repo_id}",
                input_size=None,
                parameters=None,
                top1=None,
                on_disk=any(file in files for file in WEIGHTS),
            )


register(Source(prefix=PREFIX, names=names, find=find, listed=listed))
register(
    Source(
        prefix=TIMM_PREFIX,
        names=lambda: (f"{TIMM_PREFIX}{each.removeprefix(PREFIX)}" for each in names()),
        find=lambda name: find(f"{PREFIX}{name.removeprefix(TIMM_PREFIX)}"),
        listed=lambda: (replace(each, name=f"{TIMM_PREFIX}{each.name.removeprefix(PREFIX)}") for each in listed()),
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
    if (path := _local(base)) is not None:
        if not (path / CONFIG).is_file():
            raise UsageError(f"{name}: {path} is no folder of a model; a file {CONFIG} was expected in it")
        return path.absolute()
    from huggingface_hub import try_to_load_from_cache

    for known in (_hub(name, base, partial(try_to_load_from_cache, base, file)) for file in _PROCESSORS):
        if isinstance(known, str) and (Path(known).parent / CONFIG).is_file():
            return Path(known).parent
    return _fetched(name, base, _SMALL_FILES)


def _local(base: str) -> Path | None:
    """Return the folder that a name means, if it means one and no repository."""
    path = Path(base).expanduser()
    return path if base.startswith((".", "~", os.sep)) or (path / CONFIG).is_file() else None


def weights_of(name: str, folder: Path, prefix: str, *, progress: bool) -> Path:
    """Return the file of a model's weights, or the index of several, after a download on first use.

    Raises:
        ClassifierError: there are none in safetensors, or they cannot be fetched.
    """
    base = name.removeprefix(prefix)
    known = _weights_in(folder)
    fetch = ""
    if known is None and _local(base) is None:
        # Of the same revision: the folder of a snapshot has the name of its commit.
        everything = *_SMALL_FILES, "*.safetensors"
        known = _weights_in(_fetched(name, base, everything, revision=folder.name, progress=progress))
        fetch = f" on disk (where there is a network, `hf download {base}` fetches them)"
    if known is None:
        raise ClassifierError(f"{name} has no weights in safetensors{fetch}; others may hold code, and are not read")
    return known


def sha256_of(weights: Path) -> str:
    """Return the hash of a file of weights; of an index, that of it and of the files that it names, in their order.

    Raises:
        ClassifierError: one cannot be read.
    """
    return weights_sha256(weights, *_parts_of(weights))


def recorded_name(name: str, folder: Path, prefix: str) -> str:
    """Return the name of a model in records, which tell nothing of the folders on a disk."""
    return name if _local(name.removeprefix(prefix)) is None else f"{prefix}{folder.resolve().name}"


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
            base = name.partition(":")[2]
            hint = "" if _local(base) else f"; where there is a network, `hf download {base}` fetches all of its files"
            raise ClassifierError(f"{name} has no image processor that can be used: {_reason(error)}{hint}") from error

    def process(picture: Image.Image) -> Any:
        given = processor(images=picture, return_tensors="pt")
        others = sorted(set(given) - {"pixel_values"})
        if others:
            raise ClassifierError(f"it makes more than pixel_values: {', '.join(others)}")
        return given["pixel_values"]

    return processor, process


def preprocessing_of(name: str, folder: Path) -> Preprocessing:
    """Return the preprocessing of a model's image processor, which is described anew only if its files have changed.

    Raises:
        ClassifierError: as :func:`processor_of` and :func:`advimg.classifiers.processors.described`.
    """
    return _preprocessing(name, folder, written(folder))


@lru_cache(maxsize=16)
def _preprocessing(name: str, folder: Path, written: tuple[int, ...]) -> Preprocessing:  # noqa: ARG001
    processor, process = processor_of(name, folder)
    return described(process, processor, name)


def pretrained(auto: Any, folder: Path) -> tuple[Any, list[str]]:
    """Load a model in 32 bits, and return it with the names of the tensors that its weights lack.

    transformers would make these up. It may raise any error.

    Args:
        auto: the class of transformers that loads models of a task.
        folder: with the model's files.
    """
    model, told = auto.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    return model, sorted({*told["missing_keys"], *(key for key, *_ in told.get("mismatched_keys", ()))})


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
    values = json_of(folder / CONFIG)
    if values is None:
        raise ClassifierError(f"{name}: {folder / CONFIG} is no configuration of a model")
    if _is_classifier(values):
        return
    architectures = values.get("architectures")
    named = architectures if isinstance(architectures, list) and architectures else [values.get("model_type")]
    made_for = ", ".join(map(str, named))
    hint = "; clip:NAME classifies by words that you give" if "CLIP" in made_for or "Siglip" in made_for else ""
    raise UsageError(f"{name} is no image classifier but a {made_for}{hint}")


def _is_classifier(config: dict[str, Any] | None) -> bool:
    if config is None:
        return False
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures:
        return any("ForImageClassification" in str(each) for each in architectures)
    known: Any = transformers().models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    return config.get("model_type") in known or "num_classes" in config  # the latter is timm's own form


def json_of(path: Path) -> dict[str, Any] | None:
    """Return the values of a JSON file; None if it cannot be read, or holds something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _not_built(name: str, classes: int, size: int) -> nn.Module:  # noqa: ARG001
    raise ClassifierError(
        f"{name} comes with its weights; for others, put the model's files into a folder: -m hf:FOLDER"
    )


def _loaded(name: str, folder: Path) -> nn.Module:
    with quietly():
        try:
            model, lacking = pretrained(transformers().AutoModelForImageClassification, folder)
        except Exception as error:  # the code of other people
            raise ClassifierError(f"{name} cannot be loaded: {_reason(error)}") from error
    if lacking:
        raise ClassifierError(f"the weights of {name} lack {len(lacking)} tensors, such as {lacking[0]}")
    return _Logits(model)


def _labels(name: str, config: Any) -> Labels:
    missing = [index for index in range(config.num_labels) if index not in config.id2label]
    if missing:
        raise ClassifierError(f"{name} has no name for class {missing[0]} of {config.num_labels}")
    return Labels(str(config.id2label[index]) for index in range(config.num_labels))


def _weights_in(folder: Path) -> Path | None:
    """Return the file of the weights in a folder, or the index of several that are all there; None without them."""
    if (folder / _WEIGHTS).is_file():
        return folder / _WEIGHTS
    index = folder / _INDEX
    return index if index.is_file() and all(part.is_file() for part in _parts_of(index)) else None


def _parts_of(weights: Path) -> list[Path]:
    """Return the files that an index of weights names; none of a file that is no index.

    Raises:
        ClassifierError: it is damaged, or names files outside its folder.
    """
    if weights.name != _INDEX:
        return []
    parts = (json_of(weights) or {}).get("weight_map")
    names = sorted({str(part) for part in parts.values()}) if isinstance(parts, dict) else []
    if not names or any(Path(part).is_absolute() or ".." in Path(part).parts for part in names):
        raise ClassifierError(f"{weights} is no index of files of weights beside it")
    return [weights.parent / part for part in names]


def _fetched(
    name: str, base: str, patterns: tuple[str, ...], *, revision: str | None = None, progress: bool = False
) -> Path:
    from huggingface_hub import snapshot_download

    download = partial(snapshot_download, base, revision=revision, allow_patterns=list(patterns))
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
