"""The record of one attack: one JSON shape for ``--json``, the batch journal and the PNG's own text chunk."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import PurePath
from typing import Any, Self

from advimg.settings import Settings, described

CHUNK_KEY = "advimg"
"""The key of the PNG text chunk that holds the record."""


@dataclass(frozen=True, slots=True)
class Target:
    """The target class."""

    index: int
    name: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read its JSON values.

        Raises:
            KeyError, TypeError, ValueError: they are no class.
        """
        return cls(int(values["index"]), str(values["name"]))


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class a classifier sees in a picture, with its softmax confidence (0..1)."""

    index: int
    name: str
    confidence: float

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read its JSON values.

        Raises:
            KeyError, TypeError, ValueError: they are no class with a confidence.
        """
        return cls(int(values["index"]), str(values["name"]), float(values["confidence"]))


@dataclass(frozen=True, slots=True)
class Trial:
    """The outcome at one eps, where the least was looked for."""

    eps: float
    reached: bool
    confidence: float
    gradients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Visibility:
    """How visible the change is, over the smallest box that holds every changed pixel.

    Attributes:
        delta_e_mean: the mean colour difference CIEDE2000; about 1 can just be noticed.
        delta_e_p95: its 95th percentile.
        ssim: the structural similarity of luma; 1 is the same.
    """

    delta_e_mean: float
    delta_e_p95: float
    ssim: float

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read its JSON values.

        Raises:
            KeyError, TypeError, ValueError: they are no such measures.
        """
        return cls(**{field.name: float(values[field.name]) for field in fields(cls)})

    @property
    def in_words(self) -> str:
        """Whether a person sees the change, by the first of :data:`GRADES` that it keeps to."""
        kept = (words for mean, p95, words in GRADES if self.delta_e_mean < mean and self.delta_e_p95 < p95)
        return next(kept, "a person will see it")

    @property
    def measures(self) -> str:
        """The measures, for people."""
        ssim = "> 0.999" if 0.9995 <= self.ssim < 1 else f"{self.ssim:.3f}"
        return f"ΔE {self.delta_e_mean:.2g}, SSIM {ssim}"


GRADES = (
    (0.5, 1.0, "a person will not see it"),
    (1.0, 2.5, "a person will hardly see it"),
    (2.5, 6.0, "a person will see it on a close look"),
)
"""Below which mean and which 95th percentile of ΔE a change deserves which words.

About 1 can just be noticed between two patches side by side. So up to the first grade hardly any pixel can be told from
the photo's; up to the second most cannot; up to the third it takes a comparison or a close look.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecord:
    """What a network besides the first sees; the fields are as in :class:`Record`, the target as this one counts."""

    model: str
    weights: str | None
    weights_sha256: str | None
    view: Mapping[str, Any]
    target: Target
    before: tuple[Prediction, ...]
    after: tuple[Prediction, ...]
    fooled: bool
    confidence: float

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the JSON values of a network in a record that tells of no error; other keys are passed over.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        own = {field.name: values[field.name] for field in fields(cls)}
        return cls(
            **own
            | {"target": Target.from_dict(own["target"]), "confidence": float(own["confidence"])}
            | {name: tuple(map(Prediction.from_dict, own[name])) for name in ("before", "after")}
        )

    @property
    def change(self) -> str:
        """What is seen in the photo and then in the file, for people."""
        was, now = self.before[0], self.after[0]
        return f"{was.name} {percent(was.confidence)} → {now.name} {percent(now.confidence)}"


NOT_JUDGED: dict[str, Any] = {"target": None, "before": [], "after": [], "fooled": False, "confidence": None}
"""The part of a :class:`NetworkRecord`, as JSON values, that is missing where an attack came to nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The settings of an attack, its course, and what the classifier sees in the file.

    Field names are the keys of the JSON object, where each of the ``settings`` has a key of its own; they are
    attributes, too, such as ``record.eps``. ``confidence`` is the target's in the file, ``min_confidence`` the one
    asked for; ``target_rule`` is the rule that chose the target, if one did; ``steps`` were taken from the start that
    gave the file, ``gradients`` counts every pass through the network, of all starts; ``psnr`` is in decibels, None
    where nothing changed, as is ``visibility``, which older records lack; ``view`` is the classifier's
    preprocessing.

    ``linf`` is the largest change of any channel, in levels, and ``l2`` the length of the whole change, where 255
    levels are 1; ``eps`` bounds that which ``norm`` names.

    ``mask_sha256`` is of the file that says where the photo might be changed, if one did.

    Where the least eps was looked for, ``max_eps`` is its bound, ``eps_tried`` lists the outcome at each eps tried, in
    order, and ``eps`` is that of the file.

    A ``step_size`` of None means the usual steps, which go by eps and become shorter.

    Where several networks are attacked, these fields are of the first and ``ensemble`` holds the others; only
    ``fooled`` means all of them. ``checked`` holds networks that took no part.
    """

    advimg: str
    source: str
    source_sha256: str
    size: tuple[int, int]
    model: str
    weights: str | None
    weights_sha256: str | None
    view: Mapping[str, Any]
    target: Target
    target_rule: str | None
    ensemble: tuple[NetworkRecord, ...] = ()
    checked: tuple[NetworkRecord, ...] = ()
    settings: Mapping[str, Any]
    eps_tried: tuple[Trial, ...] = ()
    mask_sha256: str | None = None
    device: str
    precision: str
    l2: float
    before: tuple[Prediction, ...]
    after: tuple[Prediction, ...]
    fooled: bool
    confidence: float
    linf: int
    psnr: float | None
    visibility: Visibility | None = None
    steps: int
    gradients: int
    seconds: float
    outputs: Mapping[str, str]
    error: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], kind: type[Settings] = Settings) -> Self:
        """Read the JSON values of a record without an error; other keys are passed over.

        Args:
            values: under the keys of a record.
            kind: the class of the settings.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        settings = {each.recorded: each.read(values) for each in described(kind)}
        own = {field.name: values[field.name] for field in fields(cls) if field.name not in ("settings", "visibility")}
        visibility = values.get("visibility")
        first = NetworkRecord.from_dict(values)
        width, height = own["size"]
        return cls(
            settings=settings,
            **own
            | {"size": (int(width), int(height)), "target": first.target, "before": first.before, "after": first.after}
            | {name: tuple(map(NetworkRecord.from_dict, own[name])) for name in ("ensemble", "checked")}
            | {"visibility": None if visibility is None else Visibility.from_dict(visibility)}
            | {"eps_tried": tuple(Trial(**trial) for trial in own["eps_tried"])}
            | {name: int(own[name]) for name in ("linf", "steps", "gradients")}
            | {name: float(own[name]) for name in ("confidence", "l2")},
        )

    def __getattr__(self, name: str) -> Any:
        if name == "settings" or name not in self.settings:  # a copy in the making has no settings yet
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self.settings[name]

    @property
    def attacked(self) -> tuple[NetworkRecord, ...]:
        """What each network that was attacked sees."""
        first = NetworkRecord(
            model=self.model,
            weights=self.weights,
            weights_sha256=self.weights_sha256,
            view=self.view,
            target=self.target,
            before=self.before,
            after=self.after,
            fooled=self.after[0].index == self.target.index,
            confidence=self.confidence,
        )
        return (first, *self.ensemble)

    @property
    def least_fooled(self) -> NetworkRecord:
        """What the network sees that is fooled least."""
        return min(self.attacked, key=lambda seen: (seen.fooled, seen.confidence))

    @property
    def least_fooled_model(self) -> str:
        """Which network is fooled least, and among how many, for people."""
        among = f", the least sure of {1 + len(self.ensemble)}" if self.ensemble else ""
        return f"{self.least_fooled.model}{among}"

    @property
    def budget(self) -> str:
        """Eps, for people."""
        return f"{self.eps:g} of 255 levels" if self.norm == "linf" else f"{self.eps:g} in L2"

    @property
    def largest_change(self) -> str:
        """How large the change is, for people."""
        if self.norm == "linf":
            return f"no channel moved more than {self.linf} of 255 levels"
        return f"the change has length {self.l2:.3f} in L2 and is at most {self.linf} of 255 levels anywhere"

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values, in the order of the fields."""
        return _flat(asdict(self) | {"size": list(self.size), "view": dict(self.view), "outputs": dict(self.outputs)})

    def to_json(self) -> str:
        """Return the record as one line of ASCII JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def to_chunk(self) -> str:
        """Return the JSON for the PNG's text chunk: without what differs between runs or tells of the disk's folders.

        So the same photo, settings and machine give the same bytes, whatever is checked besides.
        """
        shown = self.to_dict() | {"source": PurePath(self.source).name}
        del shown["outputs"], shown["seconds"], shown["checked"]
        return json.dumps(shown, allow_nan=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """An attack that came to nothing, in the shape of a record.

    Attributes:
        source: the photo.
        error: why, in one line.
        known: those other fields of the record that are known.
    """

    source: str
    error: str
    known: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values under the keys of a record, null where nothing is known."""
        unknown: dict[str, Any] = {field.name: None for field in fields(Record)}
        unknown["settings"] = {each.recorded: None for each in described()}
        nothing = NOT_JUDGED | {"ensemble": [], "checked": [], "eps_tried": [], "outputs": {}}
        return _flat(unknown) | nothing | dict(self.known) | {"source": self.source, "error": self.error}


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Put the settings among the other values, and the eps that were tried after their bound."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key != "settings":
            flat.setdefault(key, value)
            continue
        for name, setting in value.items():
            flat[name] = setting
            if name == "max_eps":
                flat["eps_tried"] = values["eps_tried"]
    return flat


def read_chunk(chunk: str | None) -> dict[str, Any]:
    """Return what a PNG's text chunk says, as plain JSON values; empty where there is none or it is not ours."""
    try:
        values = json.loads(chunk or "")
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def percent(confidence: float) -> str:
    """Write a confidence for people, so that only 0 and 1 themselves are called 0 % and 100 %."""
    if 0 < confidence < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= confidence < 1:
        return "> 99.9 %"
    return f"{confidence:.0%}".replace("%", " %") if confidence in (0, 1) else f"{confidence * 100:.1f} %"


def printable(text: str) -> str:
    """Replace control characters: file names and records of others may hold commands to a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
