"""The promise, held against a file: its size, how much was changed, and what a classifier sees in it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from advimg.changes import Change
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.ensemble import Ensemble
from advimg.engine.criterion import Criterion
from advimg.engine.verdicts import judge
from advimg.errors import RecordError
from advimg.images.mask import Mask
from advimg.images.perturbation import measure_change
from advimg.images.photo import Photo
from advimg.record import NetworkRecord, Prediction, Survival, Target
from advimg.record_schema import read_chunk
from advimg.settings import Norm
from advimg.transforms.base import check_size


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


def check_promise(
    picture: Photo,
    photo: Photo,
    target: int | None,
    *,
    ensemble: Ensemble,
    eps: float,
    norm: Norm,
    mask: Mask | None,
    cases: Sequence[Change],
    bare: bool = False,
) -> Verification:
    """Hold the promise against a picture.

    Args:
        picture: the adversarial one.
        photo: the one that it was made from.
        target: the index of the class; None if the one that is seen in the photo is to be left.
        ensemble: of the one classifier that judges; its verdict on a photo is computed once.
        eps: the most that may have changed.
        norm: what eps bounds.
        mask: where the photo may have been changed.
        cases: changes after which that has to hold, too.
        bare: whether there are only levels, of a picture that has no transparency and no profile.

    Raises:
        PhotoError: a picture of this shape cannot be shown to the classifier.
        UsageError: a change leaves nothing of it, or makes too much of it.
        ClassifierError: the classifier gives no finite logits.
    """
    (classifier,) = ensemble.classifiers
    for case in cases:
        check_size(case, *picture.size, source=picture.source)
    classifier.preprocessing.check_size(*picture.size, source=picture.source)
    criterion = Criterion(ensemble.judge_photo(photo)[0].top1, away=True) if target is None else Criterion(target)
    verdicts = judge(ensemble, picture.levels, cases)
    (after,) = verdicts.plain
    survives = criterion.survivals({change: seen for change, (seen,) in verdicts.changed.items()})
    fooled = criterion.met(after) and all(each.fooled for each in survives)
    same_size = picture.size == photo.size
    change = measure_change(photo.levels, picture.levels) if same_size else None
    within = change is not None and change.within(eps, norm)
    kept = mask.kept(photo.levels, picture.levels) if mask is not None and same_size else None
    alpha = None if bare else same_size and np.array_equal(_opacity(photo), _opacity(picture))
    profile = None if bare else photo.icc_profile == picture.icc_profile
    reached = _target(classifier, criterion.target(after))
    differs = _record_differs(picture, classifier, reached if criterion.away else None)
    return Verification(
        adversarial=picture.source,
        original=photo.source,
        model=classifier.name,
        target=reached,
        left=_target(classifier, criterion.index) if criterion.away else None,
        norm=norm,
        eps=eps,
        same_size=same_size,
        linf=None if change is None else change.linf,
        l2=None if change is None else round(change.l2, 6),
        within_eps=within,
        mask_kept=kept,
        alpha_kept=alpha,
        profile_kept=profile,
        view=classifier.view,
        record_differs=differs,
        top5=after.top(5),
        confidence=round(after.confidence(reached.index), 6),
        survives=survives,
        holds=fooled and within and False not in (kept, alpha, profile) and not differs,
    )


def view_differs(recorded: Sequence[NetworkRecord], view: Mapping[str, Any]) -> tuple[str, ...]:
    """Say in what a classifier's preprocessing is none of those that records of it name."""
    views = [{"squash": False, **each.view} for each in recorded]
    if not views or view in views:
        return ()
    names = dict.fromkeys([*view, *views[0]])
    return _said((name, views[0].get(name), view.get(name)) for name in names)


def _record_differs(picture: Photo, classifier: Classifier, reached: Target | None) -> tuple[str, ...]:
    """Say in what a picture's own record of a model differs from what the judge finds.

    Args:
        picture: with or without a record.
        classifier: the judge.
        reached: the class that was reached, where only the record says which one it has to be.
    """
    try:
        record = read_chunk(picture.chunk)
    except RecordError:
        record = None
    own = [network for network in record.attacked if network.model == classifier.name] if record else []
    said: tuple[str, ...] = ()
    if own and reached is not None and all(each.target.index != reached.index for each in own):
        said = _said([("class", own[0].target.name, reached.name)])
    return said + view_differs(own, classifier.view)


def _said(values: Iterable[tuple[str, Any, Any]]) -> tuple[str, ...]:
    return tuple(f"{name} {there} in the record, {here} here" for name, there, here in values if there != here)


def _opacity(photo: Photo) -> npt.NDArray[np.uint8]:
    """Return the alpha of a photo, [height, width]; one without is opaque."""
    return np.broadcast_to(np.uint8(255), photo.levels.shape[:2]) if photo.alpha is None else photo.alpha


def _target(classifier: Classifier, index: int) -> Target:
    return Target(index, classifier.labels[index])
