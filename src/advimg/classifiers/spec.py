"""The specification of a classifier: a name, and what replaces what is published under it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from advimg.errors import ClassifierError, UsageError, unreadable
from advimg.formatting import shortened
from advimg.labels import Labels
from advimg.storage.url import STORES, Place, is_url, place
from advimg.toml import parse_toml

_MOST_WORDS = 100_000
_LONGEST_PROMPT = 1000
"""Characters, as many as a record takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A classifier by name; what is not None replaces what is published.

    Attributes:
        model: a name that a source knows, such as ``resnet50:IMAGENET1K_V1``; with weights it names the architecture.
        weights: a state dict.
        labels: the names of the classes, or a text file with one a line; of a model that sees words typed by hand, the
            words.
        prompt: the sentence that such a model takes the words in, with ``{}`` for the word.
        input_size: width and height of the network's input, in pixels.
        resize: the length of the shorter side before the crop, in pixels.
        interpolation: the filter of the resize.
        mean, std: of each channel, on the scale 0..1.
        squash: whether both sides are resized, whatever the picture's shape.
        channels: the order in which the network takes them, "rgb" or "bgr"; also that of mean and std.
        title: the name in the record, if it is not that of the model.
        file: the TOML file that it was read from, or the ONNX file that it is, an absolute path.
    """

    model: str
    weights: Place | None = None
    labels: Path | tuple[str, ...] | None = None
    prompt: str | None = None
    input_size: int | None = None
    resize: int | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    squash: bool | None = None
    channels: str | None = None
    title: str | None = None
    file: Path | None = None

    @classmethod
    def of(cls, name: str) -> Self:
        """Return the spec of a model's name, or of a TOML file if the name ends in ``.toml``.

        The keys of the file are the attributes of this class but title and file; paths in it are relative to it.

        Raises:
            UsageError: a key of the file is unknown, missing or of the wrong type.
            ClassifierError: the file cannot be read.
        """
        if name.partition("://")[0].lower() in STORES and is_url(name):
            raise UsageError(f"{name}: a model is a name, or a file of this machine; its --weights may be a URL")
        if is_onnx(name):
            return cls(model=name, title=Path(name).name, file=Path(name).absolute())
        return cls._read(Path(name)) if name.lower().endswith(".toml") else cls(model=name)

    def changed(self, **given: Any) -> Self:
        """Return a spec with those of the given values that are not None."""
        return replace(self, **{key: value for key, value in given.items() if value is not None})

    @classmethod
    def _read(cls, path: Path) -> Self:
        try:
            data = path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise ClassifierError(unreadable(path, error)) from error
        values = parse_toml(data, path)
        known = [field.name for field in fields(cls) if field.name not in ("title", "file")]
        for key in values:
            if key not in known:
                lines = data.decode("utf-8").splitlines()
                line = next((n for n, line in enumerate(lines, 1) if _names(line, key)), 1)
                raise UsageError(f"{path}, line {line}: unknown key {key!r}; the keys are {', '.join(known)}")
        if "model" not in values:
            raise UsageError(f'{path}: the key model is missing, such as model = "resnet18"')
        return cls(title=path.name, file=path.absolute(), **{key: _value(values, key, path) for key in values})

    def given_labels(self) -> Labels | None:
        """Return the labels of the spec; None if it has none.

        Raises:
            ClassifierError: the file cannot be read.
        """
        if not isinstance(self.labels, Path):
            return None if self.labels is None else Labels(self.labels)
        try:
            names = self.labels.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            missing = "; words themselves have commas between them" if isinstance(error, FileNotFoundError) else ""
            raise ClassifierError(f"the labels {self.labels} cannot be read: {error}{missing}") from error
        while names and not names[-1].strip():
            names.pop()
        return Labels(name.strip() for name in names)

    def words(self) -> Labels:
        """Return the labels as words typed by hand, each of them once and with blanks at neither end.

        Raises:
            UsageError: there are none or too many, one is empty, or two are the same but for the case of letters.
            ClassifierError: their file cannot be read.
        """
        given = self.given_labels()
        if given is None or not len(given):
            raise UsageError(f"{self.model} sees words that you give: --labels 'a dog,a pelican', or a file of them")
        if len(given) > _MOST_WORDS:
            raise UsageError(f"{self.model}: there are {len(given):,} words; the most is {_MOST_WORDS:,}")
        words = tuple(word.strip() for word in given.names)
        lines: dict[str, int] = {}
        for number, word in enumerate(words, 1):
            if not word:
                raise UsageError(f"{self.model}: word {number} is empty")
            first = lines.setdefault(word.casefold(), number)
            if first != number:
                raise UsageError(f"{self.model}: words {first} and {number} are the same, {shortened(word, 100)!r}")
        return Labels(words)

    def checked_prompt(self, default: str) -> str:
        """Return the prompt, or a default if there is none.

        Raises:
            UsageError: it has not just one ``{}``, has other braces, or is too long.
        """
        prompt = default if self.prompt is None else self.prompt
        if prompt.count("{}") != 1 or set("{}") & set(prompt.replace("{}", "")):
            raise UsageError(f"the prompt {shortened(prompt, 100)!r} must have {{}} once, in the place of the word")
        if len(prompt) > _LONGEST_PROMPT:
            raise UsageError(f"the prompt has {len(prompt):,} characters; the most is {_LONGEST_PROMPT:,}")
        return prompt


def is_onnx(name: str) -> bool:
    """Tell whether a name is that of an ONNX file, and not of a source's model, such as ``hf:someone/net.onnx``."""
    return name.lower().endswith(".onnx") and re.match(r"[a-z_-]{2,}:", name) is None


def _names(line: str, key: str) -> bool:
    return re.match(rf"\s*(\[+\s*)?[\"']?{re.escape(key)}\b", line) is not None


def _value(values: Mapping[str, Any], key: str, path: Path) -> Any:
    """Return a value of a TOML file in the type of its field."""
    value = values[key]
    if key == "model" and isinstance(value, str):
        return str(path.parent / value) if is_onnx(value) else value
    if key in ("interpolation", "channels", "prompt") and isinstance(value, str):
        return value
    if key == "squash" and isinstance(value, bool):
        return value
    if key == "weights" and isinstance(value, str) and is_url(value):
        return place(value)
    if key in ("weights", "labels") and isinstance(value, str):
        return path.parent / value
    if key == "labels" and isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(value)
    if key in ("input_size", "resize") and type(value) is int:
        return value
    if key in ("mean", "std") and isinstance(value, Sequence) and all(type(each) in (int, float) for each in value):
        return tuple(value)  # as they are: a whole number may be too large for a float
    raise UsageError(f"{path}: {key} cannot be {value!r}")
