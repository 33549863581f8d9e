"""What was found when the promise was checked on a file."""

from dataclasses import asdict, dataclass
from typing import Any

from advimg.record import Prediction, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of comparing a file with its original and showing it to a classifier.

    ``linf`` and ``l2`` are None where the sizes differ; ``mask_kept`` tells whether nothing is changed where a mask
    forbids it, and is None without one. The field names are the keys of ``verify --json``.
    """

    adversarial: str
    original: str
    model: str
    target: Target
    norm: str
    eps: float
    same_size: bool
    linf: int | None
    l2: float | None
    within_eps: bool
    mask_kept: bool | None
    top5: tuple[Prediction, ...]
    confidence: float
    holds: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the verification as plain JSON values."""
        return asdict(self)
