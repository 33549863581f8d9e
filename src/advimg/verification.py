"""The promise, checked on files: same size, no channel moved more than ε, and the classifier sees the target."""

from dataclasses import asdict, dataclass
from typing import Any

from advimg.classifiers.classifier import Classifier
from advimg.images.mask import Mask
from advimg.images.perturbation import measure_change
from advimg.images.photo import Photo
from advimg.record import Guess, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found when a file was held against its original and a classifier.

    ``linf`` is None where the sizes differ; ``mask_kept`` tells whether nothing is changed where a mask forbids it, and
    is None without one. The field names are the keys of ``verify --json``.
    """

    adversarial: str
    original: str
    model: str
    target: Target
    eps: int
    same_size: bool
    linf: int | None
    mask_kept: bool | None
    top5: tuple[Guess, ...]
    confidence: float
    holds: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the verification as plain JSON values."""
        return asdict(self)


def verify_photo(
    adversarial: Photo,
    original: Photo,
    *,
    classifier: Classifier,
    target: int,
    eps: int,
    mask: Mask | None = None,
) -> Verification:
    """Check the promise on two decoded pictures.

    Raises:
        PhotoError: the adversarial's shape cannot be looked at.
        ClassifierError: the classifier's output is not logits.
    """
    verdict = classifier.judge_photo(adversarial)
    same_size = adversarial.size == original.size
    linf = mask_kept = None
    if same_size and mask is not None:
        mask_kept = mask.kept(original.levels, adversarial.levels)
    if same_size:
        linf = measure_change(original.levels, adversarial.levels).linf
    return Verification(
        adversarial=adversarial.source,
        original=original.source,
        model=classifier.name,
        target=Target(target, classifier.labels[target]),
        eps=eps,
        same_size=same_size,
        linf=linf,
        mask_kept=mask_kept,
        top5=verdict.top(5),
        confidence=round(verdict.confidence(target), 6),
        holds=verdict.top1 == target and linf is not None and linf <= eps and mask_kept is not False,
    )
