"""Verdicts on a picture and on what changes make of it, by the real codecs, the official preprocessing and network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from advimg.changes import Change
from advimg.classifiers.classifier import Verdict
from advimg.classifiers.ensemble import Ensemble
from advimg.engine.criterion import Criterion, Judgement
from advimg.images.photo import Levels
from advimg.transforms.base import changed_picture


class Verdicts(NamedTuple):
    """What the classifiers of an ensemble see in a picture.

    Attributes:
        plain: each classifier's verdict on the picture itself.
        changed: each one's on the picture after a change.
    """

    plain: tuple[Verdict, ...]
    changed: Mapping[Change, tuple[Verdict, ...]]

    @property
    def all(self) -> tuple[tuple[Verdict, ...], ...]:
        """The verdicts on the picture itself, and after each change."""
        return (self.plain, *self.changed.values())


def judge(
    ensemble: Ensemble,
    levels: Levels,
    changes: Iterable[Change],
    go_on: Callable[[Sequence[Verdict]], bool] = lambda _: True,
) -> Verdicts:
    """Judge a picture, and what each change makes of it.

    Args:
        ensemble: the classifiers.
        levels: RGB, [height, width, 3], uint8.
        changes: without ranges.
        go_on: asked after each of these verdicts whether the next is worth it.

    Raises:
        ClassifierError: as :meth:`Classifier.judge`.
    """
    plain = ensemble.judge(levels)
    changed: dict[Change, tuple[Verdict, ...]] = {}
    last, picture = plain, Image.fromarray(levels)
    for change in changes:
        if not go_on(last):
            break
        last = changed[change] = ensemble.judge(np.asarray(changed_picture(change, picture)))
    return Verdicts(plain, changed)


def judgements(
    ensemble: Ensemble, criteria: Sequence[Criterion], before: Sequence[Verdict], after: Verdicts
) -> tuple[Judgement, ...]:
    """Hold each classifier's verdicts against its criterion."""
    changed = (
        {change: verdicts[number] for change, verdicts in after.changed.items()} for number in range(len(before))
    )
    return tuple(map(Judgement.of, ensemble.classifiers, criteria, before, after.plain, changed))
