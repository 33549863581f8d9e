"""The promise, checked on files: same size, no channel moved more than ε, and the classifier sees the target."""

from dataclasses import asdict, dataclass
from typing import Any

from advimg.classifiers.classifier import Classifier
from advimg.images.mask import Mask
from advimg.images.perturbation import measure_change
from advimg.images.photo import Photo
from advimg.record import Prediction, Target
from advimg.settings import Norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found when a file was held against its original and a classifier.

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


def verify_photo(
    adversarial: Photo,
    original: Photo,
    *,
    classifier: Classifier,
    target: int,
    eps: float,
    norm: Norm = "linf",
    mask: Mask | None = None,
) -> Verification:
    """Check the promise on two decoded pictures.

    Raises:
        PhotoError: the adversarial's shape cannot be looked at.
        ClassifierError: the classifier's output is not logits.
    """
    verdict = classifier.judge_photo(adversarial)
    same_size = adversarial.size == original.size
    mask_kept = None
    if same_size and mask is not None:
        mask_kept = mask.kept(original.levels, adversarial.levels)
    change = measure_change(original.levels, adversarial.levels) if same_size else None
    within = change is not None and change.within(eps, norm)
    return Verification(
        adversarial=adversarial.source,
        original=original.source,
        model=classifier.name,
        target=Target(target, classifier.labels[target]),
        norm=norm,
        eps=eps,
        same_size=same_size,
        linf=None if change is None else change.linf,
        l2=None if change is None else round(change.l2, 6),
        within_eps=within,
        mask_kept=mask_kept,
        top5=verdict.top(5),
        confidence=round(verdict.confidence(target), 6),
        holds=verdict.top1 == target and within and mask_kept is not False,
    )
