"""Words typed by hand, seen by zero-shot image classifiers of transformers: CLIP, SigLIP, their kin (extra ``hf``).

Names begin with ``clip:``: ``clip:openai/clip-vit-base-patch32`` is a model of the Hugging Face hub, ``clip:./folder``
one that was saved with ``save_pretrained``. Pictures and words are processed as transformers' pipeline
``zero-shot-image-classification`` processes them. Code that a model brings is never run, and weights are read from
safetensors only. transformers is imported on first use.

The verdict is that of the model in 32 bits, whatever its weights are stored in: what
``pipeline("zero-shot-image-classification", dtype=torch.float32)`` says of the same file.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from advimg.classifiers.device import failing_as
from advimg.classifiers.sources.base import Listed, OpenVocabulary, Published, Source, register
from advimg.classifiers.sources.hugging_face import (
    CONFIG,
    WEIGHTS,
    folder_of,
    json_of,
    preprocessing_of,
    pretrained,
    quietly,
    recorded_name,
    sha256_of,
    transformers,
    weights_of,
)
from advimg.classifiers.word_network import Probe, WordNetwork, features_of, sentences_of
from advimg.errors import ClassifierError, UsageError
from advimg.labels import Labels

PREFIX = "clip:"
PROMPT = "This is a photo of {}."
"""That of transformers' pipeline."""


def find(name: str) -> OpenVocabulary | None:
    """Return a model by name; whether there is such a one is asked when it is to see words.

    Raises:
        ClassifierError: transformers is not installed.
    """
    transformers()
    return OpenVocabulary(prompt=PROMPT, publish=partial(_publish, name)) if name != PREFIX else None


def listed() -> Iterator[Listed]:
    """Yield the zero-shot image classifiers in the hub's cache.

    Raises:
        ClassifierError: transformers is not installed.
    """
    types = _types()
    from huggingface_hub import constants, try_to_load_from_cache

    for cached in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*")):
        base = cached.name.removeprefix("models--").replace("--", "/")
        path = try_to_load_from_cache(base, CONFIG)
        config = (json_of(Path(path)) if isinstance(path, str) else None) or {}
        if isinstance(path, str) and config.get("model_type") in types:
            vision = config.get("vision_config")
            size = vision.get("image_size") if isinstance(vision, dict) else None
            yield Listed(
                name=f"{PREFIX}{base}",
                input_size=size if isinstance(size, int) else None,
                parameters=None,
                top1=None,
                on_disk=any(Path(path).with_name(file).is_file() for file in WEIGHTS),
            )


register(Source(prefix=PREFIX, names=lambda: (each.name for each in listed()), find=find, listed=listed))


def _types() -> dict[str, str]:
    """Return the types of models for this task, and their classes."""
    auto = transformers().models.auto.modeling_auto
    return dict(auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES)


def _publish(given: str, words: Labels, prompt: str) -> Published:
    """Return a model as a classifier of words.

    Raises:
        UsageError: there is no such folder, or it is a model of another task.
        ClassifierError: a file of it is missing or damaged, or its image processor cannot be described.
    """
    folder = folder_of(given, PREFIX)
    name = recorded_name(given, folder, PREFIX)
    config = json_of(folder / CONFIG) or {}
    if config.get("model_type") not in _types():
        raise UsageError(
            f"{name} is no zero-shot image classifier but of the type {config.get('model_type')!r}; types that are: "
            f"{', '.join(_types())}"
        )
    _tokenizer(folder, name)
    preprocessing = preprocessing_of(name, folder)
    return Published(
        name=name,
        build=partial(_not_built, name),
        preprocessing=preprocessing,
        labels=words,
        fetch=lambda progress: weights_of(given, folder, PREFIX, progress=progress),
        sha256=sha256_of,
        load=partial(_load, name, sentences_of(words, prompt), preprocessing.size),
        prompt=prompt,
    )


def _not_built(name: str, classes: int, size: int) -> nn.Module:  # noqa: ARG001
    raise ClassifierError(f"{name} takes its weights from its folder; save others there with save_pretrained()")


def _load(name: str, sentences: Sequence[str], size: tuple[int, int], path: Path, side: int) -> nn.Module:  # noqa: ARG001
    """Make the network of a model, with the features of its words.

    Raises:
        ClassifierError: the weights are damaged, or the model does not take the words or see pictures as expected.
    """
    tokenizer = _tokenizer(path.parent, name)
    with quietly(), failing_as(f"{name} cannot be loaded"):
        model, lacking = pretrained(transformers().AutoModelForZeroShotImageClassification, path.parent)
        model.eval()
    if lacking:
        raise ClassifierError(f"the weights {path} lack {len(lacking)} tensors of {name}, such as {lacking[0]}")

    def encoded(some: Sequence[str]) -> Any:
        options: dict[str, Any] = {"padding": True}
        if "siglip" in model.config.model_type:
            options = {"padding": "max_length", "max_length": 64, "truncation": True}
        return tokenizer(list(some), return_tensors="pt", **options)

    def official(pictures: Tensor, some: Sequence[str]) -> Tensor:
        logits: Tensor = model(**encoded(some), pixel_values=pictures).logits_per_image
        return logits

    with quietly(), failing_as(f"{name} cannot see these words"):
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
    with quietly(), failing_as(f"{name}: its tokenizer cannot be loaded"):
        tokenizer = transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        files = dict(tokenizer.vocab_files_names)
    quick = files.pop("tokenizer_file", "tokenizer.json")
    slow = [file for file in files.values() if not (folder / file).is_file()]
    if slow and not (folder / quick).is_file():
        raise ClassifierError(f"{name}: its tokenizer is missing ({quick}, or {' and '.join(files.values())})")
    return tokenizer
