"""The record of one attack: one JSON shape for ``--json``, the batch journal and the PNG's own text chunk.

The types of the fields say what a record may hold. :mod:`.record_schema` reads JSON by them, and ``record.schema.json``
in the package is the JSON Schema made of them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Annotated, Any, Literal, NotRequired, Self, TypedDict

from msgspec import Meta

from advimg.formatting import shortened, with_confidence
from advimg.labels import same_class
from advimg.settings import described

CHUNK_KEY = "advimg"
"""The key of the PNG text chunk that holds the record."""

SCHEMA = 1
"""The version of the record's shape; a record without one is of version 1."""

MOST_NETWORKS = 32
"""The most networks that one record may name, so that a record that was made up takes nobody's time."""

MOST_WORDS = 1000
"""The most words typed by hand that a record names; of more it has the hash."""

MOST = 2**53 - 1
"""The largest whole number that every reader of JSON keeps exactly."""

_LONGEST_ERROR = 10_000

Name = Annotated[str, Meta(max_length=1000)]
"""Of a class, a model, a rule; :class:`advimg.labels.Labels` takes no longer ones."""
PathName = Annotated[str, Meta(max_length=32_767)]
"""As long as a path of any system may be."""
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{1,64}$")]
Index = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Side = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Sides = Annotated[list[Side], Meta(min_length=2, max_length=2)]
"""Width and height."""
Count = Annotated[int, Meta(ge=0, le=MOST)]
Share = Annotated[float, Meta(ge=0, le=1)]
Number = Annotated[float, Meta(ge=0, le=1e12)]
Eps = Annotated[int, Meta(ge=1, le=255)] | Annotated[float, Meta(gt=0, le=1e6)]
"""Whole levels, or a length in L2."""
Channels = Annotated[list[Annotated[float, Meta(ge=-1e6, le=1e6)]], Meta(min_length=3, max_length=3)]


class View(TypedDict):
    """A classifier's preprocessing, as :class:`advimg.classifiers.preprocessing.Preprocessing` has it.

    ``preprocess`` is the name of a function, where that was the preprocessing and the rest only describes it. Where the
    classes are words typed by hand, ``words`` are these, or ``words_sha256`` the hash of the words with a line feed
    between two, and ``prompt`` is the sentence that they were put into.
    """

    resize: Side | Sides
    crop: Side | Sides
    interpolation: Name
    mean: Channels
    std: Channels
    squash: NotRequired[bool]
    then: NotRequired[Name]
    channels: NotRequired[Name]
    library: NotRequired[Name]
    corner: NotRequired[Name]
    pad: NotRequired[bool]
    preprocess: NotRequired[Name]
    prompt: NotRequired[Name]
    words: NotRequired[Annotated[list[Name], Meta(max_length=MOST_WORDS)]]
    words_sha256: NotRequired[Sha256]


class Environment(TypedDict):
    """What decides, besides the photo and the settings, which bytes an attack gives.

    ``threads`` is how many PyTorch computes with, ``cpu`` the vector instructions that it uses, ``gpu`` the name of the
    GPU if the attack ran on one; the others are versions.
    """

    threads: Count
    cpu: Name
    gpu: Name | None
    torch: Name
    numpy: Name
    pillow: Name


@dataclass(frozen=True, slots=True)
class Target:
    """The target class."""

    index: Index
    name: Name


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class a classifier sees in a picture, with its softmax confidence (0..1)."""

    index: Index
    name: Name
    confidence: Share


@dataclass(frozen=True, slots=True)
class Trial:
    """The outcome at one eps, where the least was looked for."""

    eps: Eps
    reached: bool
    confidence: Share
    gradients: Count


@dataclass(frozen=True, slots=True)
class Survival:
    """What a network sees in the file after a change that the file is to survive.

    Attributes:
        change: such as ``resize:0.5+jpeg:75``.
        fooled: whether it still sees what was wanted.
        seen: the class that it sees.
        confidence: of what was wanted.
    """

    change: Name
    fooled: bool
    seen: Prediction
    confidence: Share


Survivals = Annotated[tuple[Survival, ...], Meta(max_length=1000)]

Predictions = Annotated[tuple[Prediction, ...], Meta(min_length=1, max_length=1000)]
"""The most probable classes, the most probable first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visibility:
    """How visible the change is, over the smallest box that holds every changed pixel.

    Attributes:
        delta_e_mean: the mean colour difference CIEDE2000, of an even sample where more than 32,768 pixels changed;
            about 1 can just be noticed.
        delta_e_p95: its 95th percentile.
        ssim: the structural similarity of luma; 1 is the same.
    """

    delta_e_mean: Number
    delta_e_p95: Number
    ssim: Annotated[float, Meta(ge=-1, le=1)]

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

    model: Name
    weights: Name | None
    weights_sha256: Sha256 | None
    view: View
    target: Target
    before: Predictions
    after: Predictions
    fooled: bool
    confidence: Share
    survives: Survivals = ()

    @property
    def sees_target(self) -> bool:
        """Whether the target is what is seen in the file itself, without a change."""
        return self.after[0].index == self.target.index

    @property
    def change(self) -> str:
        """What is seen in the photo and then in the file, for people."""
        return _change(self.before[0], self.after[0])


@dataclass(frozen=True, slots=True)
class CheckedTarget:
    """The target class as a judge knows it that took no part: a program has no index for it."""

    index: Index | None
    name: Name


@dataclass(frozen=True, slots=True)
class Answer:
    """One class that a judge sees that took no part: a program has no index for it, and may have no confidence."""

    index: Index | None
    name: Name
    confidence: Share | None


@dataclass(frozen=True, slots=True)
class CheckedSurvival:
    """What a judge that took no part sees after a change; as :class:`Survival`, but for what a program does not say."""

    change: Name
    fooled: bool
    seen: Answer
    confidence: Share | None


Answers = Annotated[tuple[Answer, ...], Meta(max_length=1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRecord:
    """What a judge sees that took no part: a network, or a program, which has no weights, view and indices.

    The fields are as in :class:`NetworkRecord`. ``confidence`` is None where a program does not give the target's, and
    ``target`` where it sees in the file, after an attack without a target, what it saw in the photo. ``error`` says in
    one line why a program gave no answer; then nothing else is known.
    """

    model: Name
    weights: Name | None
    weights_sha256: Sha256 | None
    view: View | None
    target: CheckedTarget | None
    before: Answers
    after: Answers
    fooled: bool
    confidence: Share | None
    survives: Annotated[tuple[CheckedSurvival, ...], Meta(max_length=1000)] = ()
    error: str | None = None

    @classmethod
    def of(cls, seen: NetworkRecord) -> Self:
        """Return the record of a network that took no part."""
        return cls(
            model=seen.model,
            weights=seen.weights,
            weights_sha256=seen.weights_sha256,
            view=seen.view,
            target=CheckedTarget(seen.target.index, seen.target.name),
            before=tuple(map(_answer, seen.before)),
            after=tuple(map(_answer, seen.after)),
            fooled=seen.fooled,
            confidence=seen.confidence,
            survives=tuple(
                CheckedSurvival(each.change, each.fooled, _answer(each.seen), each.confidence) for each in seen.survives
            ),
        )

    @property
    def change(self) -> str:
        """What is seen in the photo and then in the file, for people; not where there is an error."""
        return _change(self.before[0], self.after[0])

    @property
    def sees_target(self) -> bool:
        """Whether the target is what is seen in the file itself, without a change."""
        if self.target is None or not self.after:
            return False
        first = self.after[0]
        if first.index is None:
            return same_class(first.name, self.target.name)
        return first.index == self.target.index


def _answer(seen: Prediction) -> Answer:
    return Answer(seen.index, seen.name, seen.confidence)


def _change(was: Prediction | Answer, now: Prediction | Answer) -> str:
    return f"{with_confidence(was.name, was.confidence)} → {with_confidence(now.name, now.confidence)}"


NOT_JUDGED: dict[str, Any] = {
    "target": None,
    "before": [],
    "after": [],
    "fooled": False,
    "confidence": None,
    "survives": [],
}
"""The part of a :class:`NetworkRecord`, as JSON values, that is missing where an attack came to nothing."""


Networks = Annotated[tuple[NetworkRecord, ...], Meta(max_length=MOST_NETWORKS)]
Checked = Annotated[tuple[CheckedRecord, ...], Meta(max_length=MOST_NETWORKS)]


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

    ``survive`` names the changes that the file is to survive, ``survives`` holds what is seen after each; ``fooled``
    means the file itself and after all of them.

    ``environment`` is None in records that are older than it. A PNG's chunk leaves out ``checked``, ``seconds`` and
    ``outputs``.

    Where several networks are attacked, these fields are of the first and ``ensemble`` holds the others; only
    ``fooled`` means all of them. ``checked`` holds networks and programs that took no part.
    """

    advimg: Name
    schema: Literal[1] = 1
    source: PathName
    source_sha256: Sha256
    size: tuple[Side, Side]
    model: Name
    weights: Name | None
    weights_sha256: Sha256 | None
    view: View
    target: Target
    target_rule: Name | None
    ensemble: Networks = ()
    checked: Checked = ()
    settings: Mapping[str, Any]
    eps_tried: Annotated[tuple[Trial, ...], Meta(max_length=1000)] = ()
    mask_sha256: Sha256 | None = None
    device: Name
    precision: Name
    environment: Environment | None = None
    l2: Number
    before: Predictions
    after: Predictions
    fooled: bool
    confidence: Share
    survives: Survivals = ()
    linf: Annotated[int, Meta(ge=0, le=255)]
    psnr: Number | None
    visibility: Visibility | None = None
    steps: Count
    gradients: Count
    seconds: Number = 0.0
    outputs: Mapping[Name, PathName] = field(default_factory=dict)
    error: None = None

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
            fooled=self.after[0].index == self.target.index and all(each.fooled for each in self.survives),
            confidence=self.confidence,
            survives=self.survives,
        )
        return (first, *self.ensemble)

    @property
    def answered(self) -> tuple[CheckedRecord, ...]:
        """What each network or program sees that took no part, but for programs that gave no answer."""
        return tuple(seen for seen in self.checked if seen.error is None)

    @property
    def least_survives(self) -> tuple[Survival, ...]:
        """What is seen after each change by the network that is fooled least then."""
        by_change = zip(*(seen.survives for seen in self.attacked), strict=True)
        return tuple(min(each, key=lambda survival: (survival.fooled, survival.confidence)) for each in by_change)

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
        return _flat(asdict(self) | {"size": list(self.size), "outputs": dict(self.outputs)})

    def to_json(self) -> str:
        """Return the record as one line of ASCII JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def published(self) -> dict[str, Any]:
        """Return :meth:`to_dict` without what differs between runs or tells of the disk's folders.

        So the same photo, settings and environment give the same values, whatever is checked besides.
        """
        shown = self.to_dict() | {"source": PurePath(self.source).name}
        del shown["outputs"], shown["seconds"], shown["checked"]
        return shown

    def to_chunk(self) -> str:
        """Return the JSON for the PNG's text chunk, of what is published."""
        return json.dumps(self.published(), allow_nan=False)


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
        unknown: dict[str, Any] = {each.name: None for each in fields(Record)}
        unknown["settings"] = {each.recorded: None for each in described()}
        nothing = NOT_JUDGED | {"ensemble": [], "checked": [], "eps_tried": [], "outputs": {}}
        told = {"schema": SCHEMA, "source": self.source, "error": shortened(self.error, _LONGEST_ERROR)}
        return _flat(unknown) | nothing | dict(self.known) | told


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
