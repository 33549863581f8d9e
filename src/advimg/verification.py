"""What was found when the promise was checked on a file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from advimg.record import Prediction, Survival, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of comparing a file with its original and showing it to a classifier.

    ``linf`` and ``l2`` are None where the sizes differ; ``mask_kept`` tells whether nothing is changed where a mask
    forbids it, and is None without one. ``alpha_kept`` and ``profile_kept`` tell whether transparency and colour
    profile are the original's: with others the same levels are another picture to a person. Both are None where there
    are only levels. ``view`` is the preprocessing that judged, ``record_differs`` what the file's own record says
    otherwise of it. ``survives`` is what is seen after each change that was asked about. Of an untargeted file,
    ``target`` is the class that was reached, and ``left`` the one that had to be left; else that is None. The field
    names are the keys of ``verify --json``.
    """

    adversarial: str
    original: str
    model: str
    target: Target
    left: Target | None
    norm: str
    eps: float
    same_size: bool
    linf: int | None
    l2: float | None
    within_eps: bool
    mask_kept: bool | None
    alpha_kept: bool | None
    profile_kept: bool | None
    view: Mapping[str, Any]
    record_differs: tuple[str, ...]
    top5: tuple[Prediction, ...]
    confidence: float
    survives: tuple[Survival, ...]
    holds: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the verification as plain JSON values."""
        return asdict(self)
