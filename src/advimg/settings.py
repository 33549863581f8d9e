"""What an attack is asked to do: a plain frozen record of numbers, checked once, used everywhere."""

from dataclasses import dataclass
from typing import Literal, get_args

from advimg.errors import UsageError
from advimg.registry import ATTACKS, LOSSES, TRANSFORMS

DEFAULT_MODEL = "resnet50:IMAGENET1K_V1"
"""The network of the article that this tool follows; its softmax is sharp."""

_LONGEST = 25_000.0
"""More than the distance from a black picture of MAX_PIXELS to a white one."""

MAX_PIXELS = 178_000_000
"""The most pixels a photo may have: PIL's own limit against decompression bombs."""

Eps = float | Literal["auto"]
Norm = Literal["linf", "l2"]
TargetRule = str
"""A name in :data:`advimg.registry.TARGET_RULES`, or "untargeted"."""
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one attack.

    Raises:
        UsageError: a value lies outside its range.
    """

    eps: Eps = 10
    """The budget: no colour channel of any pixel moves by more than this many of 255 levels; "auto" finds the least."""
    norm: Norm = "linf"
    """What is bounded: "linf", as above, or "l2", the Euclidean length of the change, where eps counts 255 levels."""
    max_eps: int = 32
    """The largest eps that "auto" tries."""
    confidence: float | None = None
    """Stop as soon as the target's softmax confidence, judged by the official preprocessing, reaches this.

    None is 0.9, or 0.5 where the least eps is looked for.
    """
    steps: int | None = None
    """The most PGD steps from each start, at each eps; None is 100, or 250 where the least eps is looked for."""
    step_size: float | None = None
    """Step length in the unit of eps; None is the usual, by eps (:mod:`advimg.attacks.schedule`)."""
    momentum: float = 0.8
    """The share of the last velocity that stays (arXiv:1710.06081); 0 is plain PGD."""
    loss: str = "ce"
    """"ce" (cross-entropy), "margin" (best other logit less the target's) or "logit" (the target's alone)."""
    restarts: int = 0
    """How many further starts, at random points of the ε-ball, follow a start that fell short."""
    attack: str = "pgd"
    """Which attack, by its name in :data:`advimg.registry.ATTACKS`."""
    transforms: tuple[str, ...] = ()
    """What to take the gradient through besides, by names in :data:`advimg.registry.TRANSFORMS`."""
    refine: int | None = None
    """The most steps that make the change less visible once the target is reached; None is 28, or 0 with transforms."""
    transfer: bool = False
    """Whether to look at the picture in many ways while it is made, so that it may fool other networks, too."""
    seed: int = 0
    """Seeds whatever is random."""

    def __post_init__(self) -> None:
        _require(self.norm in get_args(Norm), f"unknown norm {self.norm!r}: use {' or '.join(get_args(Norm))}")
        _require(self.norm == "linf" or self.eps != "auto", "eps auto looks for whole levels; with l2 give a number")
        object.__setattr__(self, "max_eps", whole_eps(self.max_eps))
        if self.eps != "auto":
            object.__setattr__(self, "eps", checked_eps(self.eps, self.norm))
        for name, value in (("steps", self.max_steps), ("restarts", self.restarts), ("seed", self.seed)):
            _require(isinstance(value, int), f"{name} {value!r}: give a whole number")
        wanted = self.min_confidence
        _require(0 <= wanted < 1, f"confidence {wanted:g}: give a value from 0 to below 1, like 0.9")
        _require(self.max_steps >= 1, f"steps {self.max_steps}: at least 1 is needed")
        _require(
            self.step_size is None or 0 < self.step_size <= _LONGEST,
            f"step size {self.step_size}: give a value above 0, in the unit of eps",
        )
        _require(0 <= self.momentum < 1, f"momentum {self.momentum:g}: give a value from 0 to below 1, like 0.75")
        _require(self.loss in LOSSES, f"unknown loss {self.loss!r}: use {', '.join(LOSSES)}")
        _require(
            not (self.transform_names and self.eps == "auto"),
            "transfer goes with an eps that is given: the least eps is where a picture crosses least",
        )
        _require(self.attack in ATTACKS, f"unknown attack {self.attack!r}: use {', '.join(ATTACKS)}")
        for name in self.transforms:
            _require(name in TRANSFORMS, f"unknown transform {name!r}: use {', '.join(TRANSFORMS)}")
        _require(self.restarts >= 0, f"restarts {self.restarts}: give 0 or more")
        _require(0 <= self.seed < 2**63, f"seed {self.seed}: give a whole number from 0 to 2^63 - 1")

    @property
    def min_confidence(self) -> float:
        """The confidence that is asked for, with the default filled in."""
        if self.confidence is not None:
            return self.confidence
        return 0.5 if self.eps == "auto" else 0.9

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
        return 0 if self.transform_names else 28

    @property
    def transform_names(self) -> tuple[str, ...]:
        """The transforms, with that of ``transfer``."""
        return (*self.transforms, *(("diversity",) if self.transfer else ()))


def parse_eps_or_auto(text: str, norm: Norm = "linf") -> Eps:
    """Read an ε as :func:`parse_eps` does, or ``auto``.

    Raises:
        UsageError: it is neither.
    """
    return "auto" if text.strip().lower() == "auto" else parse_eps(text, norm)


def parse_eps(text: str, norm: Norm = "linf") -> float:
    """Read an ε as people write it: ``10`` or ``10/255``, in levels of 255; for L2 any number above 0.

    Raises:
        UsageError: not a number, or out of range: 1..255, and no bare fraction such as 0.04.
    """
    if norm == "l2":
        try:
            length = float(text)
        except ValueError:
            raise UsageError(f"eps {text!r} is not a number; for l2 write one like 3 or 0.5") from None
        return checked_eps(length, norm)
    numerator, slash, denominator = text.strip().partition("/")
    if slash and denominator.strip() != "255":
        raise UsageError(f"eps {text!r}: eps is counted in levels of 255; write 10 or 10/255")
    try:
        value = float(numerator)
    except ValueError:
        raise UsageError(f"eps {text!r} is not a number; write a whole number of levels, like 10 or 10/255") from None
    return whole_eps(value)


def checked_eps(value: float, norm: Norm) -> float:
    """Check an ε of a norm and return it: whole levels for L∞.

    Raises:
        UsageError: out of range or, for L∞, not whole.
    """
    if norm == "linf":
        return whole_eps(value)
    _require(0 < value <= _LONGEST, f"eps {value:g} is out of range; for l2 give a number above 0, like 3 or 0.5")
    return float(value)


def whole_eps(value: float) -> int:
    """Check an ε in levels and return it as a whole number from 1 to 255.

    Raises:
        UsageError: out of range or not whole.
    """
    if 0 < value < 1:
        levels = max(1, round(value * 255))
        raise UsageError(f"eps {value:g} looks like a fraction; eps is counted in levels of 255: write {levels}")
    if not 1 <= value <= 255:
        raise UsageError(f"eps {value:g} is out of range; give whole levels from 1 to 255, like 10")
    if value != int(value):
        raise UsageError(
            f"eps {value:g} is not whole; pixels have whole levels, so give {int(value)} or {int(value) + 1}"
        )
    return int(value)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)
