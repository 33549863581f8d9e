"""Changes that a file is to survive, as people write them: ``jpeg:75``, ``resize:0.5+jpeg:75``, ``jpeg:50-95``.

A change is a chain of transforms joined by ``+``; each is a name of :data:`advimg.registry.TRANSFORMS` and its values
after colons, in the order of the transform's parameters, where words may stand anywhere. A number may be a range: the
verdict takes its ends and its middle. Of a range of seeds the passes of an attack draw only other seeds. What is left
out has its default. Several changes are separated by commas, and names of presets such as ``web`` stand for
theirs. Nothing here knows how a picture is changed.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import product
from random import Random
from typing import Any

from advimg.errors import PluginError, UsageError
from advimg.formatting import printable
from advimg.registry import TRANSFORMS

PRESETS: Mapping[str, str] = {"web": "jpeg:75,jpeg:50,webp:80,resize:0.5,crop:0.1,resize:0.5+jpeg:75"}
"""Changes under a name."""

MOST_CASES = 64
"""The most verdicts on changed pictures that one file may need."""

_LONGEST = 1000  # characters of a list, as a record holds it
_DIGITS = 4  # after the point: numbers are written, and so recorded, without exponents

_LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers from the one to the other."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{_written(self.low)}-{_written(self.high)}"


Value = float | str | Range


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a transform can be told: a number within limits, or one of some words.

    ``seed`` says that the number decides nothing but chance: one value is as good as another.
    """

    name: str
    default: Value
    whole: bool = False
    seed: bool = False
    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf
    words: tuple[str, ...] = ()

    def allows(self, number: float) -> bool:
        """Tell whether a number is within the limits; NaN never is."""
        return self.at_least <= number <= self.at_most and self.above < number < self.below

    @property
    def limits(self) -> str:
        """The limits, for people."""
        limits = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        kind = "a whole number, " if self.whole else ""
        return kind + " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))

    def drawn(self, value: Value, draw: Random) -> Value:
        """Return the value itself, or one drawn from a range; for a range of seeds any that the verdict does not take.

        Else an attack would be judged on the very chances that it was made for.
        """
        if not isinstance(value, Range):
            return value
        if self.seed:
            seed, taken = value.low, (value.low, value.high, self.middle(value))
            while seed in taken:
                seed = draw.randint(int(self.at_least), int(self.at_most))
            return seed
        if self.whole:
            return draw.randint(int(value.low), int(value.high))
        return round(draw.uniform(value.low, value.high), _DIGITS)

    def middle(self, value: Value) -> Value:
        """Return the value itself, or the middle of a range."""
        if not isinstance(value, Range):
            return value
        return (value.low + value.high) // 2 if self.whole else round((value.low + value.high) / 2, _DIGITS)


def number(default: float | Range, **limits: Any) -> Any:
    """Return a field of a transform that holds a number; ``limits`` are as in :class:`Parameter`."""
    return field(default=default, metadata={"parameter": limits})


def word(default: str, *others: str) -> Any:
    """Return a field of a transform that holds one of some words."""
    return field(default=default, metadata={"parameter": {"words": (default, *others)}})


def parameters(name: str) -> tuple[Parameter, ...]:
    """Return the parameters of the transform of this name.

    Raises:
        UsageError: there is none.
        PluginError: it is a plugin that cannot be used.
    """
    kind = TRANSFORMS[name]
    found: list[Parameter] = []
    try:
        for each in fields(kind):
            default: Any = each.default
            found.append(Parameter(each.name, default, **each.metadata["parameter"]))
    except (TypeError, KeyError) as error:
        raise PluginError(
            f"the change {name!r}, {kind}, is no dataclass whose fields are number() or word()"
        ) from error
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Link:
    """One transform of a chain: its name, and a value for each of its parameters."""

    name: str
    values: tuple[Value, ...]

    def __str__(self) -> str:
        pairs = list(zip(parameters(self.name), self.values, strict=True))
        while len(pairs) > 1 and pairs[-1][1] == pairs[-1][0].default:
            pairs.pop()
        return ":".join(
            [self.name, *(f"{value}" if isinstance(value, str | Range) else _written(value) for _, value in pairs)]
        )

    @property
    def ranges(self) -> int:
        """How many of the values are ranges."""
        return sum(isinstance(value, Range) for value in self.values)


@dataclass(frozen=True, slots=True)
class Change:
    """A chain of transforms, in their order; printed as people write it."""

    links: tuple[Link, ...]

    def __str__(self) -> str:
        return "+".join(map(str, self.links))

    @property
    def fixed(self) -> bool:
        """Whether no value is a range."""
        return not self.ranges

    @property
    def ranges(self) -> int:
        """How many of the values are ranges."""
        return sum(link.ranges for link in self.links)

    def drawn(self, draw: Random) -> "Change":
        """Return the change with a value drawn from each range."""
        return self._with(lambda parameter, value: parameter.drawn(value, draw))

    def like(self, case: "Change") -> "Change":
        """Return a case of this change with this one's ranges of seeds in the place of its seeds."""
        known = (parameter for link in self.links for parameter in parameters(link.name))
        both = zip(known, self._values(), case._values(), strict=True)
        return self._of(own if parameter.seed else given for parameter, own, given in both)

    def cases(self) -> tuple["Change", ...]:
        """Return what the verdict takes: each combination of the ends of ranges, and the middle of all."""
        if self.fixed:
            return (self,)
        ends = [[value.low, value.high] if isinstance(value, Range) else [value] for value in self._values()]
        corners = [self._of(iter(values)) for values in product(*ends)]
        middle = self._with(lambda parameter, value: parameter.middle(value))
        return tuple(dict.fromkeys([*corners, middle]))

    def _values(self) -> Iterator[Value]:
        return (value for link in self.links for value in link.values)

    def _of(self, values: Iterator[Value]) -> "Change":
        return Change(tuple(Link(link.name, tuple(next(values) for _ in link.values)) for link in self.links))

    def _with(self, chosen: Any) -> "Change":
        return Change(
            tuple(Link(link.name, tuple(map(chosen, parameters(link.name), link.values))) for link in self.links)
        )


def parse_changes(text: str | Iterable[str]) -> tuple[Change, ...]:
    """Read changes separated by commas, or a list of such texts; names of presets stand for theirs.

    Returns:
        Each change once, in their order.

    Raises:
        UsageError: one is unknown or incomplete, a value is out of range, or they are too many.
    """
    whole = text if isinstance(text, str) else ",".join(text)
    texts = [each.strip().lower() for each in whole.split(",")]
    texts = [each for named in texts for each in PRESETS.get(named, named).split(",")]
    # All names first: they are known without importing what they name.
    for each in texts:
        _check_names(each)
    changes = tuple(dict.fromkeys(Change(tuple(map(_link, each.split("+")))) for each in texts))
    # First what needs no counting: the cases of a chain double with each range.
    too_many = len(changes) > MOST_CASES or any(2**change.ranges > MOST_CASES for change in changes)
    if too_many or len(cases_of(changes)) > MOST_CASES or len(",".join(map(str, changes))) > _LONGEST:
        raise UsageError(
            f"these changes are too many: give fewer changes and ranges, for at most {MOST_CASES} verdicts a file and "
            f"{_LONGEST} characters"
        )
    return changes


def cases_of(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Return what the verdict on a file takes, each once: changes without ranges."""
    return tuple(dict.fromkeys(case for change in changes for case in change.cases()))


def _check_names(text: str) -> None:
    if not text:
        raise UsageError("there is an empty change; write changes like jpeg:75,resize:0.5+jpeg:75")
    for link in text.split("+"):
        name = link.partition(":")[0].strip()
        if not name:
            raise UsageError(f"{_shown(text)}: a change is missing beside a +; write a chain like resize:0.5+jpeg:75")
        if name in PRESETS:
            raise UsageError(f"{_shown(text)}: {name} is a list of changes of its own; give it between commas, alone")
        if name not in TRANSFORMS:
            known = ", ".join(dict.fromkeys([*TRANSFORMS, *PRESETS]))
            raise UsageError(f"unknown change {_shown(name)}: use {known}, or a chain like resize:0.5+jpeg:75")


def _link(text: str) -> Link:
    name, *given = (part.strip() for part in text.split(":"))
    known = parameters(name)
    values: dict[str, Value] = {}
    for part in given:
        words = [each for each in known if part in each.words and each.name not in values]
        numbers = [each for each in known if not each.words and each.name not in values]
        if words:
            values[words[0].name] = part
        elif numbers:
            values[numbers[0].name] = _number(part, numbers[0], text)
        else:
            raise UsageError(f"{_shown(text)}: {_shown(part)} says nothing to {name}; {_usage(name, known)}")
    return Link(name, tuple(values.get(each.name, each.default) for each in known))


def _written(number: float) -> str:
    """Write a number so that it can be read back."""
    return f"{number:d}" if isinstance(number, int) else f"{number:.{_DIGITS}f}".rstrip("0").rstrip(".")


def _number(text: str, parameter: Parameter, whole: str) -> float | Range:
    """Read a number, or a range of two."""
    ends = []
    for part in text.split("-", 1):
        try:
            value = round(float(part), _DIGITS)
        except (ValueError, OverflowError):
            words = [" or ".join(each.words) for each in parameters(whole.partition(":")[0].strip()) if each.words]
            also = f", or {', '.join(words)}" if words else ""
            raise UsageError(
                f"{_shown(whole)}: {_shown(text)} is no {parameter.name}; give a number or a range{also}"
            ) from None
        if not parameter.allows(value) or (parameter.whole and value != int(value)):
            raise UsageError(f"{_shown(whole)}: the {parameter.name} must be {parameter.limits}")
        ends.append(int(value) if parameter.whole else value)
    if len(ends) == 1 or ends[0] == ends[1]:
        return ends[0]
    if ends[0] > ends[1]:
        raise UsageError(f"{_shown(whole)}: the range begins above its end; write {Range(ends[1], ends[0])}")
    return Range(*ends)


def _usage(name: str, known: Iterable[Parameter]) -> str:
    form = [name, *("|".join(each.words) if each.words else each.name.upper() for each in known)]
    return f"write {':'.join(form)}"


def _shown(text: str) -> str:
    return repr(printable(text, _LONGEST_SHOWN))
