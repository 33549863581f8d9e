"""Words typed by hand, seen by open_clip's models (the extra ``clip``).

Names begin with ``open_clip/`` and go on as open_clip has them: ``open_clip/ViT-B-32:laion2b_s34b_b79k``, a model and
the tag of its weights; ``open_clip/local-dir:FOLDER``, a folder with ``open_clip_config.json`` and weights. Pictures go
through open_clip's own transform. Weights are read without running what they hold, and code that a folder brings is
never run. open_clip is imported on first use.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from advimg.classifiers.device import failing_as
from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.processors import described, written
from advimg.classifiers.sources.base import Listed, OpenVocabulary, Published, Source, register
from advimg.classifiers.word_network import Probe, WordNetwork, features_of, sentences_of
from advimg.errors import ClassifierError, UsageError, first_line
from advimg.labels import Labels

PREFIX = "open_clip/"
PROMPT = "a photo of a {}"

_LOCAL = "local-dir:"
_CONFIG = "open_clip_config.json"
_UNNAMED = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
"""Where a repository's name stands for its weights."""
_READABLE = (".safetensors", ".bin", ".pt", ".pth")
"""Weights that open_clip reads as a state dict."""
_CODE = "trust_remote_code"
"""What lets transformers, which open_clip asks for some tokenizers and text towers, run code of a model's own."""


def find(name: str) -> OpenVocabulary | None:
    """Return a model by name; None for an unknown one.

    Raises:
        UsageError: the model has no such weights, or none are named.
        ClassifierError: open_clip is not installed, or there is no such folder.
    """
    open_clip = _open_clip()
    base = name.removeprefix(PREFIX)
    architecture, _, tag = base.partition(":")
    if base.startswith(_LOCAL):
        if not Path(tag).is_dir():
            raise ClassifierError(f"{name}: there is no such folder")
    elif architecture not in open_clip.list_models():
        return None
    elif not open_clip.is_pretrained_cfg(architecture, tag):
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        known = " or ".join(f"{PREFIX}{architecture}:{each}" for each in tags[:5]) or "another model, it has none"
        raise UsageError(f"{name} has no such weights; use {known}" if tag else f"which weights of {name}? use {known}")
    return OpenVocabulary(prompt=PROMPT, publish=partial(_publish, base))


def names() -> Iterator[str]:
    """Yield the names of models with weights, and of their weights.

    Raises:
        ClassifierError: open_clip is not installed.
    """
    return (f"{PREFIX}{name}" for name in _open_clip().list_pretrained(as_str=True))


def listed() -> Iterator[Listed]:
    """Yield open_clip's models that have weights.

    Raises:
        ClassifierError: open_clip is not installed.
    """
    open_clip = _open_clip()
    for name, tag in open_clip.list_pretrained():
        size = open_clip.get_model_config(name)["vision_cfg"].get("image_size", 224)
        yield Listed(
            name=f"{PREFIX}{name}:{tag}",
            input_size=size if isinstance(size, int) else max(size),
            parameters=None,
            top1=None,
            on_disk=_cached(open_clip.get_pretrained_cfg(name, tag)) is not None,
        )


register(Source(prefix=PREFIX, names=names, find=find, listed=listed))


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise ClassifierError("open_clip/ models need open_clip: pip install 'advimg-cli[clip]'") from None
    return open_clip


def _publish(base: str, words: Labels, prompt: str) -> Published:
    """Return a model as a classifier of words.

    Raises:
        ClassifierError: its configuration cannot be read, or its preprocessing cannot be described.
    """
    if local := _local(base):
        base = f"{_LOCAL}{local}"
    name = f"{PREFIX}{_LOCAL}{local.resolve().name}" if local else f"{PREFIX}{base}"
    config, overlay = _config(base)
    preprocessing = _preprocessing(name, base, written(local) if local else ())
    with failing_as(f"{name}: its configuration cannot be used"):
        options = {_CODE: False} if config["text_cfg"].get("hf_tokenizer_name") else {}  # one of its own takes none
    return Published(
        name=name,
        build=partial(_not_built, name),
        preprocessing=preprocessing,
        labels=words,
        fetch=partial(_fetch, name, local, {} if local else overlay),
        load=partial(
            _load,
            name,
            base if local else base.partition(":")[0],
            options,
            # Some tags of a model were trained with another activation than its configuration names.
            not local and bool(overlay.get("quick_gelu")),
            sentences_of(words, prompt),
            preprocessing.size,
        ),
        prompt=prompt,
    )


def _local(base: str) -> Path | None:
    """Return the folder that a name stands for, if it does."""
    return Path(base.removeprefix(_LOCAL)).absolute() if base.startswith(_LOCAL) else None


@lru_cache(maxsize=16)
def _preprocessing(name: str, base: str, written: tuple[int, ...]) -> Preprocessing:  # noqa: ARG001
    open_clip = _open_clip()
    config, overlay = _config(base)
    with failing_as(f"{name}: its preprocessing cannot be made"):
        values = open_clip.transform.merge_preprocess_dict(open_clip.transform.PreprocessCfg(), overlay)
        # As open_clip does: that of the network counts, whatever the preprocessing says.
        values["size"] = config["vision_cfg"].get("image_size", 224)
        transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**values), is_train=False)
    return described(lambda picture: _pixels(transform, picture), transform, name)


def _pixels(transform: Any, picture: Image.Image) -> Tensor:
    pixels: Tensor = transform(picture).unsqueeze(0)
    return pixels


def _config(base: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configuration of a network and of its preprocessing; that of a tag holds more.

    Raises:
        ClassifierError: it is that of a folder, and cannot be read.
    """
    if (local := _local(base)) is not None:
        return _local_config(local)
    architecture, _, tag = base.partition(":")
    open_clip = _open_clip()
    return open_clip.get_model_config(architecture), open_clip.get_pretrained_cfg(architecture, tag)


def _local_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configuration of the network and of the preprocessing that a folder holds.

    Raises:
        ClassifierError: there is none, it cannot be read, or it wants code of its own to be run.
    """
    path = folder / _CONFIG
    try:
        config = json.loads(path.read_bytes())
        if _has_key(config, _CODE):
            raise ClassifierError(f"{path} wants code of its own to be run ({_CODE}), which is never run")
        return config["model_cfg"], config.get("preprocess_cfg", {})
    except FileNotFoundError:
        raise ClassifierError(f"{folder} is no folder of an open_clip model: it has no {_CONFIG}") from None
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise ClassifierError(f"{path} cannot be read: {first_line(error)}") from error


def _has_key(values: object, key: str) -> bool:
    """Tell whether there is a key anywhere in the values of a JSON file."""
    inner = list(values.values()) if isinstance(values, dict) else values if isinstance(values, list) else []
    return (isinstance(values, dict) and key in values) or any(_has_key(each, key) for each in inner)


def _not_built(name: str, classes: int, size: int) -> nn.Module:  # noqa: ARG001
    raise ClassifierError(f"{name} has its own weights; put others into a folder, and give {PREFIX}{_LOCAL}FOLDER")


def _load(
    name: str,
    model_name: str,
    options: Mapping[str, Any],
    quick_gelu: bool,
    sentences: Sequence[str],
    size: tuple[int, int],
    path: Path,
    side: int,  # noqa: ARG001
) -> nn.Module:
    """Make the network of a model, with the features of its words.

    Raises:
        ClassifierError: the weights are damaged, or the model does not take the words or see pictures as expected.
    """
    open_clip = _open_clip()
    if path.suffix not in _READABLE:
        raise ClassifierError(f"the weights {path} cannot be read; use {' or '.join(_READABLE)}")
    with _quiet(), _no_code(), failing_as(f"{name}: its network or its tokenizer cannot be made"):
        tokenizer = open_clip.get_tokenizer(model_name, **options)
        model = open_clip.create_model(
            model_name, load_weights=False, pretrained_text=False, force_quick_gelu=quick_gelu
        ).eval()
    with _quiet(), failing_as(f"the weights {path} do not fit, are damaged, or hold code, which is never run"):
        open_clip.load_checkpoint(model, str(path), weights_only=True)

    def official(pictures: Tensor, some: Sequence[str]) -> Tensor:
        return _logits(model, pictures, tokenizer(list(some)))

    with _quiet(), failing_as(f"{name} cannot see these words"):
        probe = Probe.of(official, sentences, size=size)
        features = features_of(sentences, lambda some: model.encode_text(tokenizer(list(some))), name=name)
        network = WordNetwork(
            _ImageFeatures(model.visual), features, scale=model.logit_scale.exp(), bias=model.logit_bias
        ).eval()
        probe.check(network, name=name)
    return network


def _logits(model: Any, pictures: Tensor, tokens: Tensor) -> Tensor:
    """Return the logits [pictures, texts] of an unmodified model; CoCa has the features only."""
    if hasattr(model, "get_logits"):
        logits: Tensor = model.get_logits(pictures, tokens)[0]
        return logits
    seen, read = (normalize(features, dim=-1) for features in (model.encode_image(pictures), model.encode_text(tokens)))
    scaled: Tensor = model.logit_scale.exp() * seen @ read.T
    return scaled if model.logit_bias is None else scaled + model.logit_bias


class _ImageFeatures(nn.Module):
    """The features of pictures, [n, features], that the image tower of a model gives."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, pictures: Tensor) -> Tensor:
        output = self.visual(pictures)
        features: Tensor = output[0] if isinstance(output, tuple) else output  # CoCa's gives those of patches, too
        return features


def _fetch(name: str, local: Path | None, config: Mapping[str, Any], progress: bool) -> Path:  # noqa: ARG001
    """Return the path of a model's weights, after a download on first use.

    Raises:
        ClassifierError: there are none, or they cannot be downloaded.
    """
    open_clip = _open_clip()
    if local:
        with _quiet():
            found = open_clip.factory._find_checkpoint_in_dir(local)
        if found is None:
            raise ClassifierError(f"{name}: its folder has no weights; put open_clip_model.safetensors into it")
        return Path(found)
    if (path := _cached(config)) is not None:
        return path
    try:
        with _quiet():
            return Path(open_clip.download_pretrained(dict(config)))
    except Exception as error:  # the hub's client raises errors of several libraries
        hub = config.get("hf_hub", "").rpartition("/")[0]
        how = f"`hf download {hub}`" if hub else f"`curl -LO --output-dir ~/.cache/clip {config.get('url')}`"
        raise ClassifierError(
            f"{name} is not on disk and cannot be downloaded ({first_line(error)}); where there is a network, {how} "
            "fetches it"
        ) from error


def _cached(config: Mapping[str, Any]) -> Path | None:
    """Return the path of weights that are on disk; None where a download is needed."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, file = config.get("hf_hub", "").rpartition("/")
    if not repository:
        path = Path("~/.cache/clip").expanduser() / Path(config.get("url", "")).name
        return path if path.is_file() else None
    files = [str(Path(file).with_suffix(".safetensors")), file] if file else _UNNAMED
    found = (try_to_load_from_cache(repository, each) for each in files)
    return next((Path(each) for each in found if isinstance(each, str)), None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from writing to stderr through the root logger; what it has to tell is told in errors."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _no_code() -> Iterator[None]:
    """Have transformers refuse code of a model's own; where open_clip does not say so, it asks on stdin first."""
    try:
        from transformers import dynamic_module_utils as module
    except ImportError:  # which only some of open_clip's models need
        yield
        return
    seconds = module.TIME_OUT_REMOTE_CODE
    module.TIME_OUT_REMOTE_CODE = 0  # how long it waits for an answer
    try:
        yield
    finally:
        module.TIME_OUT_REMOTE_CODE = seconds
