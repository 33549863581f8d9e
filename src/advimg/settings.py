"""The settings of an attack: each is one field, from which options, record, journal and keyword arguments derive."""

import math
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from advimg.changes import PRESETS, Change, cases_of, parse_changes
from advimg.errors import UsageError
from advimg.registry import ATTACKS, LOSSES, TRANSFORMS

DEFAULT_MODEL = "resnet50:IMAGENET1K_V1"
"""The network of the article that this tool follows; its softmax is sharp."""

DEFAULT_EPS: Mapping[str, float] = {"linf": 10, "l2": 3.0}
"""The eps of each norm, where none is given."""

_LONGEST = 25_000.0
"""More than the distance from a black picture of MAX_PIXELS to a white one."""

MAX_PIXELS = 178_000_000
"""The most pixels a photo may have: PIL's own limit against decompression bombs."""

Eps = float | Literal["auto"]
Norm = Literal["linf", "l2"]
TargetRule = str
"""A name in :data:`advimg.registry.TARGET_RULES`, or "untargeted"."""
Precision = Literal["auto", "fp32", "bf16"]
Group = Literal["What to reach", "Models", "The attack", "Photos", "Files", "What is said"]
"""A heading of ``--help``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is known of a setting besides its name, type and default.

    Attributes:
        help: for ``--help``, one or two sentences.
        group: the heading in ``--help`` under which it stands.
        short: its short option, such as ``-e``.
        levels: whether the value is read by :func:`parse_eps`.
        shown: the default in words, where it depends on other settings.
        at_least, above, at_most, below: limits of a number.
        recorded: the attribute of :class:`Settings` that the record holds, under the same name; by default the field.
        by_eps: whether the recorded value depends on eps.
        choices: the values of a str, where there are but some and its type does not tell.
        formerly: what a record means that was written before there was the setting; by default there is none.
        changes_results: whether attacks that differ in it may give other files; then a folder has one value of it.
    """

    help: str
    group: Group = "The attack"
    short: str | None = None
    levels: bool = False
    shown: str | None = None
    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf
    recorded: str | None = None
    by_eps: bool = False
    choices: Collection[str] = ()
    formerly: Any = ...
    changes_results: bool = True

    def allows(self, value: Any) -> bool:
        """Tell whether a number is within the limits; NaN never is."""
        return bool(self.at_least <= value <= self.at_most and self.above < value < self.below)

    @property
    def limits(self) -> str:
        """The limits in words."""
        words = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{word} {limit:g}" for word, limit in words.items() if math.isfinite(limit))


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of :class:`Settings`, or of a class derived from it.

    Attributes:
        kind: bool, int, float or str.
        choices: the values of a str, if they are few.
    """

    name: str
    default: Any
    kind: type
    choices: Collection[str]
    about: About

    @property
    def recorded(self) -> str:
        """The name in the record."""
        return self.about.recorded or self.name

    def read(self, record: Mapping[str, Any]) -> Any:
        """Return the value in a record.

        Raises:
            KeyError: it is missing.
        """
        formerly = self.about.formerly
        return record[self.recorded] if formerly is ... else record.get(self.recorded, formerly)

    def checked(self, value: Any) -> Any:
        """Return a value in the setting's own type; None where that is the default.

        Raises:
            UsageError: it is of another type, or not allowed.
        """
        value = _unboxed(value)
        if self.about.levels or (value is None and self.default is None):
            return value
        if self.kind is float and type(value) is int and abs(value) < 1 << 63:
            value = float(value)
        if type(value) is not self.kind or (self.choices and value not in self.choices):
            kinds = {
                bool: "True or False",
                int: "a whole number",
                float: "a number",
                str: ", ".join(self.choices) or "text",
            }
            hint = kinds[self.kind]
        elif self.kind in (bool, str) or self.about.allows(value):
            return value
        else:
            hint = f"a value {self.about.limits}"
        raise UsageError(f"{self.name.replace('_', ' ')} {_shown(value)}: give {hint}")


def setting(default: Any, text: str, **about: Any) -> Any:
    """Return a field of :class:`Settings`; ``text`` and ``about`` are as in :class:`About`."""
    return field(default=default, metadata={"about": About(help=text, **about)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one attack. Numbers may be numpy's; eps may be written as on the command line (``"10/255"``).

    Raises:
        UsageError: a value is of the wrong type or lies outside its range.
    """

    norm: Norm = setting(
        "linf",
        "What eps bounds: each channel's change, or the length of the whole change, where 255 levels are 1.",
        group="What to reach",
    )
    eps: Eps = setting(
        None,
        "The most any colour channel of any pixel may change, in levels of 255 (10 or 10/255), or auto: the least that "
        "does it.",
        group="What to reach",
        short="-e",
        levels=True,
        shown=f"{DEFAULT_EPS['linf']:g}; {DEFAULT_EPS['l2']:g} with --norm l2",
    )
    max_eps: int = setting(32, "The most that --eps auto may try.", group="What to reach", levels=True, by_eps=True)
    seed: int = setting(0, "Seeds whatever is random.", at_least=0, at_most=2**63 - 1)
    confidence: float | None = setting(
        None,
        "Stop once the file shows the target with this confidence.",
        group="What to reach",
        shown="0.9; 0.98 with --survive; 0.5 with --eps auto",
        at_least=0,
        below=1,
        recorded="min_confidence",
        by_eps=True,
    )
    survive: str | None = setting(
        None,
        f"The file is to be the target after each of these changes, too: {', '.join(TRANSFORMS.built_in)}, with values "
        "after colons. Chains and ranges, as in jpeg:75,resize:0.5+webp:60-90; web is "
        f"{PRESETS['web'].replace(',', ', ')}.",
        group="What to reach",
        formerly=None,
    )
    steps: int | None = setting(
        None,
        "The most steps from each start, at each eps.",
        shown="100; 250 with --eps auto",
        at_least=1,
        recorded="max_steps",
        by_eps=True,
    )
    step_size: float | None = setting(
        None,
        "Length of each step, in the unit of eps.",
        shown="long at first, then shorter, by eps",
        above=0,
        at_most=_LONGEST,
    )
    momentum: float = setting(
        0.8, "Share of the last step's direction that stays; 0 is plain PGD.", at_least=0, below=1
    )
    attack: str = setting(
        "pgd", "Projected gradient descent with momentum, or Auto-PGD.", choices=ATTACKS, formerly="pgd"
    )
    loss: str = setting("ce", "Cross-entropy, logit margin, or the target's logit alone.", choices=LOSSES)
    restarts: int = setting(0, "Further starts at random points, for a photo that resists.", at_least=0)
    refine: int | None = setting(
        None,
        "The most steps that then make the change less visible; 0 stops as soon as the target is reached.",
        shown="20; 0 with --transfer",
        at_least=0,
        recorded="refine_steps",
        formerly=0,
    )
    transfer: bool = setting(
        False, "Attack the picture resized, cropped and mirrored at random, so that it may fool other models, too."
    )

    def __post_init__(self) -> None:
        changes: Any = self.survive
        if isinstance(changes, list | tuple):
            object.__setattr__(self, "survive", ",".join(map(str, changes)) if changes else None)
        for each in described(type(self)):
            object.__setattr__(self, each.name, each.checked(getattr(self, each.name)))
        ATTACKS.check(self.attack)
        given: Any = self.eps
        eps = DEFAULT_EPS[self.norm] if given is None else parse_eps_or_auto(given, self.norm)
        object.__setattr__(self, "eps", eps)
        object.__setattr__(self, "max_eps", parse_eps(self.max_eps))
        if eps == "auto" and self.norm != "linf":
            raise UsageError("eps auto looks for whole levels; with l2 give a number")
        if eps == "auto" and self.transfer:
            raise UsageError("transfer goes with an eps that is given: at the least eps a file withstands least")
        if self.survive is not None:
            object.__setattr__(self, "survive", ",".join(map(str, parse_changes(self.survive))))

    @property
    def min_confidence(self) -> float:
        """The confidence that is asked for, with the default filled in."""
        if self.confidence is not None:
            return self.confidence
        if self.eps == "auto":
            return 0.5
        # What is surer also survives more changes that are like those asked for.
        return 0.9 if self.survive is None else 0.98

    @property
    def max_steps(self) -> int:
        """The most steps from each start, with the default filled in."""
        if self.steps is not None:
            return self.steps
        return 250 if self.eps == "auto" else 100

    @property
    def refine_steps(self) -> int:
        """The most steps of refinement, with the default filled in."""
        if self.refine is not None:
            return self.refine
        return 0 if self.transfer else 20

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes that the file is to survive."""
        return () if self.survive is None else parse_changes(self.survive)

    @property
    def cases(self) -> tuple[Change, ...]:
        """The changes that the verdict takes: without ranges."""
        return cases_of(self.changes)

    def changed(self, **changes: Any) -> Self:
        """Return settings in which some are different; another norm without an eps has its own default eps.

        Raises:
            TypeError: there is no such setting.
            UsageError: a value is of the wrong type or lies outside its range.
        """
        if changes.get("norm", self.norm) != self.norm:
            changes.setdefault("eps", None)
        return replace(self, **changes)

    def to_record(self) -> dict[str, Any]:
        """Return the settings as the record has them, in the order of the fields.

        ``eps`` is None where the least is looked for; only there ``max_eps`` is not.
        """
        values = {each.recorded: getattr(self, each.recorded) for each in described(type(self))}
        return values | ({"eps": None} if self.eps == "auto" else {"max_eps": None})


def described(kind: type[Settings] = Settings) -> tuple[Setting, ...]:
    """Return the settings of a class, in the order of its fields."""
    hashable: Any = kind  # mypy takes the __hash__ of its instances for that of the class
    return _described(hashable)


@cache
def _described(kind: Any) -> tuple[Setting, ...]:
    types = get_type_hints(kind)
    return tuple(_setting(each.name, each.default, types[each.name], each.metadata["about"]) for each in fields(kind))


def _setting(name: str, default: Any, type_: Any, about: About) -> Setting:
    if isinstance(type_, UnionType) and not about.levels:
        (type_,) = (each for each in get_args(type_) if each is not NoneType)
    choices = get_args(type_) if get_origin(type_) is Literal else about.choices
    return Setting(name, default, str if choices or about.levels else type_, choices, about)


Settings.__doc__ = "\n".join(
    [Settings.__doc__ or "", "    Attributes:", *(f"        {each.name}: {each.about.help}" for each in described())]
)


def parse_eps_or_auto(value: object, norm: Norm = "linf") -> Eps:
    """Read an ε as :func:`parse_eps` does, or ``auto``.

    Raises:
        UsageError: it is neither.
    """
    return "auto" if isinstance(value, str) and value.strip().lower() == "auto" else parse_eps(value, norm)


def parse_eps(value: object, norm: Norm = "linf") -> float:
    """Read an ε as people write it: 10, ``"10"`` or ``"10/255"``, in levels of 255; for L2 any number above 0.

    Returns:
        Whole levels from 1 to 255, as an int; for L2 a float.

    Raises:
        UsageError: not a number, or out of range, or for L∞ not whole.
    """
    value = _unboxed(value)
    number = value
    if norm == "linf" and isinstance(value, str):
        number, slash, denominator = value.strip().partition("/")
        if slash and denominator.strip() != "255":
            raise UsageError(f"eps {_shown(value)}: eps is counted in levels of 255; write 10 or 10/255")
    try:
        if isinstance(number, bool):  # which Python takes for 0 or 1
            raise TypeError
        eps = float(number)  # type: ignore[arg-type]
    except OverflowError:
        eps = math.inf
    except (TypeError, ValueError):
        example = "a whole number of levels, like 10 or 10/255" if norm == "linf" else "one like 3 or 0.5"
        raise UsageError(f"eps {_shown(value)} is not a number; {'for l2 ' * (norm == 'l2')}write {example}") from None
    if norm == "l2":
        if not 0 < eps <= _LONGEST:
            raise UsageError(f"eps {eps:g} is out of range; for l2 give a number above 0, like 3 or 0.5")
        return eps
    if 0 < eps < 1:
        levels = max(1, round(eps * 255))
        raise UsageError(f"eps {eps:g} looks like a fraction; eps is counted in levels of 255: write {levels}")
    if not 1 <= eps <= 255:
        raise UsageError(f"eps {eps:g} is out of range; give whole levels from 1 to 255, like 10")
    if eps != int(eps):
        raise UsageError(f"eps {eps:g} is not whole; pixels have whole levels, so give {int(eps)} or {int(eps) + 1}")
    return int(eps)


def _unboxed(value: Any) -> Any:
    """Return Python's own number for one of numpy or torch."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def _shown(value: object) -> str:
    """Write any value in one short line."""
    return " ".join(reprlib.repr(value).split())
