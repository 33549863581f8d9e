"""Words typed by hand, seen by zero-shot image classifiers of transformers: CLIP, SigLIP, their kin (extra ``hf``).

Names begin with ``clip:``: ``clip:openai/clip-vit-base-patch32`` is a model of the Hugging Face hub, ``clip:FOLDER``
one that was saved with ``save_pretrained``. Pictures and words are processed as transformers' pipeline
``zero-shot-image-classification`` processes them. Code that a model brings is never run, and weights are read from
safetensors only. transformers is imported on first use.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advimg.classifiers.device import failing_as
from advimg.classifiers.processors import described
from advimg.classifiers.sources.base import Listed, OpenVocabulary, Published, Source, register
from advimg.classifiers.word_network import Probe, WordNetwork, features_of, sentences_of
from advimg.errors import ClassifierError, UsageError, first_line
from advimg.labels import Labels

PREFIX = "clip:"
PROMPT = "This is a photo of {}."
"""That of transformers' pipeline."""

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_BESIDE = ["*.json", "*.txt", "*.model"]
"""What a model needs besides its weights."""


def find(name: str) -> OpenVocabulary | None:
    """Return a model by name; None for what is neither a folder nor called like a model of the hub.

    Raises:
        ClassifierError: transformers is not installed.
    """
    base = name.removeprefix(PREFIX)
    _transformers()
    if not base or not (Path(base).is_dir() or _is_of_hub(base)):
        return None
    return OpenVocabulary(prompt=PROMPT, publish=partial(_publish, base))


def listed() -> Iterator[Listed]:
    """Yield the zero-shot image classifiers in the hub's cache.

    Raises:
        ClassifierError: transformers is not installed.
    """
    types = _types(_transformers())
    from huggingface_hub import constants

    for cached in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*")):
        base = cached.name.removeprefix("models--").replace("--", "/")
        folder = _cached(base)
        config: dict[str, Any] = {}
        with suppress(ClassifierError):
            config = _config_in(folder) if folder else {}
        if folder and config.get("model_type") in types:
            vision = config.get("vision_config")
            size = vision.get("image_size") if isinstance(vision, dict) else None
            yield Listed(
                name=PREFIX + base,
                input_size=size if isinstance(size, int) else None,
                parameters=None,
                top1=None,
                on_disk=_weights_in(folder) is not None,
            )


register(Source(prefix=PREFIX, names=lambda: (each.name for each in listed()), find=find, listed=listed))


def _transformers() -> Any:
    try:
        import safetensors  # noqa: F401
        import transformers
    except ImportError:
        raise ClassifierError("clip: models need transformers and safetensors: pip install 'advimg-cli[hf]'") from None
    return transformers


def _types(transformers: Any) -> dict[str, str]:
    """Return the types of models for this task, and their classes."""
    auto = transformers.models.auto.modeling_auto
    return dict(auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES)


def _publish(base: str, words: Labels, prompt: str) -> Published:
    """Return a model as a classifier of words.

    Raises:
        UsageError: it is a model of another task.
        ClassifierError: a file of it is missing or damaged, or its image processor cannot be described.
    """
    transformers = _transformers()
    folder = _folder(base)
    name = PREFIX + (folder.resolve().name if Path(base).is_dir() else base)
    kind = _config_in(folder).get("model_type")
    if kind not in _types(transformers):
        raise UsageError(
            f"{name} is no zero-shot image classifier but of the type {kind!r}; types that are: "
            f"{', '.join(_types(transformers))}"
        )
    _tokenizer(folder, name)
    with _quiet(transformers), failing_as(f"{name}: its image processor cannot be loaded"):
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    preprocessing = described(partial(_pixels, processor), processor, name)
    return Published(
        name=name,
        build=partial(_not_built, name),
        preprocessing=preprocessing,
        labels=words,
        fetch=partial(_fetch, base, folder),
        load=partial(_load, name, sentences_of(words, prompt), preprocessing.size),
        prompt=prompt,
    )


def _pixels(processor: Any, picture: object) -> Any:
    return processor(images=[picture], return_tensors="pt")["pixel_values"]


def _not_built(name: str, classes: int, size: int) -> nn.Module:  # noqa: ARG001
    raise ClassifierError(f"{name} takes its weights from its folder; save others there with save_pretrained()")


def _load(name: str, sentences: Sequence[str], size: tuple[int, int], path: Path, side: int) -> nn.Module:  # noqa: ARG001
    """Make the network of a model, with the features of its words.

    Raises:
        ClassifierError: the weights are damaged, or the model does not take the words or see pictures as expected.
    """
    transformers = _transformers()
    tokenizer = _tokenizer(path.parent, name)
    with _quiet(transformers), failing_as(f"{name} cannot be loaded"):
        model, told = transformers.AutoModelForZeroShotImageClassification.from_pretrained(
            path.parent,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        model.eval()
    if missing := sorted(map(str, (*told["missing_keys"], *told["mismatched_keys"]))):
        raise ClassifierError(f"the weights {path} do not fit {name}: {missing[0]} is missing or of another shape")

    def encoded(some: Sequence[str]) -> Any:
        options: dict[str, Any] = {"padding": True}
        if "siglip" in model.config.model_type:
            options = {"padding": "max_length", "max_length": 64, "truncation": True}
        return tokenizer(list(some), return_tensors="pt", **options)

    def official(pictures: Tensor, some: Sequence[str]) -> Tensor:
        logits: Tensor = model(**encoded(some), pixel_values=pictures).logits_per_image
        return logits

    with _quiet(transformers), failing_as(f"{name} cannot see these words"):
        probe = Probe.of(official, sentences, size=size)
        features = features_of(sentences, lambda some: _pooled(model.get_text_features(**encoded(some))), name=name)
        scale = model.logit_scale.exp() if hasattr(model, "logit_scale") else 1 / model.temperature
        for part in ("text_model", "text_projection"):  # whose work is done, and which may be half of the memory
            model._modules.pop(part, None)
        network = WordNetwork(_ImageFeatures(model), features, scale=scale, bias=getattr(model, "logit_bias", None))
        probe.check(network.eval(), name=name)
    return network


class _ImageFeatures(nn.Module):
    """The features of pictures, [n, features], that a model of transformers gives."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> Tensor:
        model: Any = self.model
        return _pooled(model.get_image_features(pixel_values=pictures))


def _pooled(output: Any) -> Tensor:
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features


def _tokenizer(folder: Path, name: str) -> Any:
    """Return the tokenizer of a model; transformers would make one without a vocabulary where its files are missing.

    Raises:
        ClassifierError: files are missing or damaged.
    """
    transformers = _transformers()
    with _quiet(transformers), failing_as(f"{name}: its tokenizer cannot be loaded"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        files = dict(tokenizer.vocab_files_names)
    quick = files.pop("tokenizer_file", "tokenizer.json")
    slow = [file for file in files.values() if not (folder / file).is_file()]
    if slow and not (folder / quick).is_file():
        raise ClassifierError(f"{name}: its tokenizer is missing ({quick}, or {' and '.join(files.values())})")
    return tokenizer


def _is_of_hub(base: str) -> bool:
    """Tell whether a model of the hub may be called so."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    utils: Any = huggingface_hub.utils
    try:
        utils.validate_repo_id(base)
    except HFValidationError:
        return False
    return "/" in base


def _folder(base: str) -> Path:
    """Return the folder of a model's files, without its weights if they are not on disk yet.

    Raises:
        ClassifierError: they are not on disk and cannot be downloaded.
    """
    folder = Path(base) if Path(base).is_dir() else _cached(base)
    return folder or _downloaded(base, _BESIDE, progress=False)


def _cached(base: str) -> Path | None:
    """Return the folder of a model in the hub's cache; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(base, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _fetch(base: str, folder: Path, progress: bool) -> Path:
    """Return the path of a model's weights, after a download on first use.

    Raises:
        ClassifierError: there are none in safetensors, or they cannot be downloaded.
    """
    of_hub = not Path(base).is_dir()
    weights = _weights_in(folder)
    if weights is None and of_hub:
        weights = _weights_in(_downloaded(base, ["model*.safetensors", _INDEX], folder.name, progress=progress))
    if weights is None:
        advice = f"`hf download {base}` fetches it if it is there" if of_hub else "save it anew with save_pretrained()"
        raise ClassifierError(
            f"{PREFIX}{base} has no {_WEIGHTS}, and other formats may hold code, which is never run: {advice}"
        )
    return weights


def _weights_in(folder: Path) -> Path | None:
    return next((path for name in (_WEIGHTS, _INDEX) if (path := folder / name).is_file()), None)


def _config_in(folder: Path) -> dict[str, Any]:
    """Return the configuration of a model.

    Raises:
        ClassifierError: there is none, or it cannot be read.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ClassifierError(f"{folder} is no folder of a model: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise ClassifierError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(config, dict):
        raise ClassifierError(f"{path} is no configuration of a model")
    return config


def _downloaded(base: str, patterns: list[str], revision: str | None = None, *, progress: bool) -> Path:
    """Download files of a model of the hub, and return their folder.

    Raises:
        ClassifierError: they cannot be downloaded.
    """
    import huggingface_hub

    utils: Any = huggingface_hub.utils
    shown = not utils.are_progress_bars_disabled()
    try:
        if not progress:
            utils.disable_progress_bars()
        return Path(huggingface_hub.snapshot_download(base, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises errors of several libraries
        raise ClassifierError(
            f"{PREFIX}{base} is not on disk and cannot be downloaded ({first_line(error)}); where there is a network, "
            f"`hf download {base}` fetches it"
        ) from error
    finally:
        if shown:
            utils.enable_progress_bars()


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep transformers from writing to stderr; what it has to tell is told in errors."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
