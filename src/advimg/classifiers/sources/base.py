"""The model sources: what a source gives, and the registry that finds the source of a name.

To add a source, write one file here that calls :func:`register`, and import it in the package's ``__init__``. A source
of another distribution registers through the entry point group ``advimg.models``: the entry point refers to a
:class:`Source`, and its name, with a slash, is the prefix of that source's models.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.program import PREFIX, no_network
from advimg.classifiers.sources.hints import hint_for
from advimg.errors import UsageError
from advimg.labels import Labels
from advimg.plugins import MODELS, Plugin


@dataclass(frozen=True, eq=False, kw_only=True)
class Published:
    """A classifier as its source publishes it.

    Attributes:
        name: in full, such as ``resnet50:IMAGENET1K_V1``.
        build: makes the network without its weights, for a number of classes and an input size in pixels.
        preprocessing: the official preprocessing.
        labels: the names of the classes.
        fetch: returns the path of the weights, after a download on first use, with a progress bar if its argument is
            true.
        rename: gives the parameters of weights that are older than the architecture their present names.
        load: makes the network with its published weights for an input size, where they are not a plain state dict.
        sha256: gives the hash of its weights, where they are a file of the user's own: it need not be the hash of the
            one file, and the file's name says nothing of it.
        twin: makes a network that torch can differentiate of one that it cannot, with the same logits up to a constant;
            raises ClassifierError where there is none.
        prompt: the sentence with ``{}`` for each of the labels, where these are words typed by hand.
    """

    name: str
    build: Callable[[int, int], nn.Module]
    preprocessing: Preprocessing
    labels: Labels
    fetch: Callable[[bool], Path]
    rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None
    load: Callable[[Path, int], nn.Module] | None = None
    sha256: Callable[[Path], str] | None = None
    twin: Callable[[nn.Module], nn.Module] | None = None
    prompt: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class OpenVocabulary:
    """A model that has no classes of its own, but sees words that are typed by hand.

    Attributes:
        prompt: the usual sentence for a word, with ``{}`` in its place.
        publish: makes a classifier of it, whose classes are words in a sentence.
    """

    prompt: str
    publish: Callable[[Labels, str], Published]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A classifier that can be loaded, as ``advimg models`` lists it. The field names are the keys of its JSON.

    Attributes:
        name: what ``--model`` takes.
        input_size: width and height of the network's input, in pixels; None where only the weights show it.
        parameters: how many; None where only the weights show it.
        top1: the published accuracy on ImageNet's validation set, in per cent; None where none is published.
        on_disk: whether it loads without a download.
    """

    name: str
    input_size: int | None
    parameters: int | None
    top1: float | None
    on_disk: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where classifiers come from. Its functions import the libraries that they need; importing its file does not.

    Attributes:
        prefix: what all its names begin with, such as ``timm/`` or ``hf:``; empty for names that no other source has.
        suffix: what its names end in instead, such as ``.onnx``, whatever the case.
        names: returns the names of its architectures, prefix included, for the hint that follows a misspelt one.
        find: returns what it publishes under a name; None if it does not know the name. Of a model that takes words it
            does so without a download.
        listed: yields its classifiers.
    """

    prefix: str = ""
    suffix: str = ""
    names: Callable[[], Iterable[str]]
    find: Callable[[str], Published | OpenVocabulary | None]
    listed: Callable[[], Iterator[Listed]]


_SOURCES: list[Source] = []


def register(source: Source) -> None:
    """Add a source; those of one prefix are asked in the order in which they were added."""
    _SOURCES.append(source)


def find(name: str) -> Published:
    """Return the classifier that is published under a name.

    Raises:
        UsageError: no source knows the name, the classifier has no such weights, or it takes words.
        ClassifierError: its source cannot be used here, or its preprocessing is not supported.
    """
    found = find_any(name)
    if isinstance(found, OpenVocabulary):
        raise UsageError(f"{name} has no classes of its own; it sees words that are given to it")
    return found


def takes_words(name: str) -> bool:
    """Tell whether a name is that of a model that sees words typed by hand.

    Raises:
        UsageError: there is no such model, where its source looks for that.
        ClassifierError: its source cannot be used here.
        PluginError: it is a plugin that cannot be used.
    """
    return any(isinstance(source.find(name), OpenVocabulary) for source in _sources_of(name))


def find_any(name: str) -> Published | OpenVocabulary:
    """Return what is published under a name, be it a classifier or a model that takes words.

    Raises:
        UsageError: no source knows the name, the classifier has no such weights, or it is a program.
        ClassifierError: its source cannot be used here, or its preprocessing is not supported.
        PluginError: its source is a plugin that cannot be used.
    """
    if name.startswith(PREFIX):
        raise no_network(name)
    sources = _sources_of(name)
    for source in sources:
        if (published := source.find(name)) is not None:
            return published
    prefix = sources[0].prefix
    bases = [known.removeprefix(prefix) for source in sources for known in source.names()]
    raise UsageError(f"unknown model {name!r}; {hint_for(name, bases, prefix=prefix)}")


def listed(query: str = "") -> Iterator[Listed]:
    """Yield the classifiers whose name contains every word of a query, without regard to case.

    A query that begins with the prefix of a source, such as ``timm/``, searches that source alone; any other searches
    the sources without a prefix.

    Raises:
        ClassifierError: the source cannot be used here.
        PluginError: it is a plugin that cannot be used.
    """
    words = query.lower().split()
    for source in _sources_of(query):
        yield from (each for each in source.listed() if all(word in each.name.lower() for word in words))


def prefixes() -> list[str]:
    """Return the prefixes of the sources that have one; those of other distributions are not imported."""
    own = [source.prefix for source in _SOURCES if source.prefix]
    return list(dict.fromkeys([*own, *(f"{plugin.name}/" for plugin in plugins())]))


def cached_path(url: str) -> Path:
    """Return where torch keeps the weights of a URL."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def download(url: str, path: Path, *, progress: bool) -> Path:
    """Download weights, with a progress bar on stderr if asked for, and return their path.

    Raises:
        URLError, OSError: the URL cannot be read, or the path not written.
        RuntimeError: the hash that the file's name holds is another.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(url, str(path), hash_prefix=hash_digits(path.name) or None, progress=progress)
    return path


def hash_digits(file_name: str) -> str:
    """Return the first digits of the SHA-256 that the name of a weights file may hold (``resnet50-0676ba61.pth``)."""
    match = re.search(r"-([0-9a-f]{8,})\.", file_name)
    return match.group(1) if match else ""


def plugins() -> list[Plugin]:
    """Return the sources of other distributions, which are not imported."""
    # One named hf is not hidden by the prefix hf:, as its own is hf/.
    return MODELS.plugins([source.prefix.removesuffix("/") for source in _SOURCES if source.prefix.endswith("/")])


def plugged_in(label: str) -> Source:
    """Return the source of another distribution whose prefix is a word and a slash.

    Raises:
        PluginError: it cannot be used.
    """
    source: Source = MODELS.load(label)
    if source.prefix != f"{label}/":
        raise MODELS.error(label, f"has the prefix {source.prefix!r}, not '{label}/'")
    return source


def _sources_of(name: str) -> list[Source]:
    """Return the sources of the prefix that a name begins with, or those without a prefix if none has it."""
    for sources in (
        [source for source in _SOURCES if source.prefix and name.startswith(source.prefix)],
        [source for source in _SOURCES if source.suffix and name.lower().endswith(source.suffix)],
    ):
        if sources:
            return sources
    label, slash, _ = name.partition("/")
    if slash and label in MODELS:
        return [plugged_in(label)]
    return [source for source in _SOURCES if not source.prefix and not source.suffix]
