"""How often a network is right about photos whose true class is known, and about the files made from them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advimg.record import Target

TrueClasses = Mapping[str, Mapping[str, Target]]
"""The true class of photos as each network counts: by the network's name, then by the photo's path."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What one network is right about.

    Attributes:
        photos: whose true class is known, with at least one file.
        clean: those that it takes for their class.
        robust: those of them whose files, all of them, it takes for the photo's class, too.
    """

    model: str
    photos: int
    clean: int
    robust: int

    @property
    def clean_accuracy(self) -> float:
        """The share of photos that it is right about; 0 where there are none."""
        return self.clean / self.photos if self.photos else 0.0

    @property
    def robust_accuracy(self) -> float:
        """The share of photos that it is right about whatever the attacks did; 0 where there are none."""
        return self.robust / self.photos if self.photos else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "model": self.model,
            "photos": self.photos,
            "clean_accuracy": round(self.clean_accuracy, 6),
            "robust_accuracy": round(self.robust_accuracy, 6),
        }


def accuracies_of(records: Iterable[Mapping[str, Any]], true_classes: TrueClasses) -> list[Accuracy]:
    """Count what each network is right about that judged files, in the order of ``true_classes``.

    Args:
        records: in any order; plain JSON values, with the photos' paths as in ``true_classes``.
        true_classes: of photos; a photo that it lacks does not count.
    """
    right: dict[str, dict[str, tuple[bool, bool]]] = {}
    for record in records:
        for seen in (record, *record["ensemble"], *record["checked"]):
            true = true_classes.get(seen.get("model", ""), {}).get(record["source"])
            if true is None or not (seen.get("before") and seen.get("after")):
                continue
            photos = right.setdefault(seen["model"], {})
            clean, robust = (seen[when][0]["index"] == true.index for when in ("before", "after"))
            _, so_far = photos.get(record["source"], (clean, True))
            photos[record["source"]] = clean, clean and robust and so_far
    return [_counted(model, list(right[model].values())) for model in true_classes if model in right]


def _counted(model: str, photos: Sequence[tuple[bool, bool]]) -> Accuracy:
    return Accuracy(model, len(photos), sum(clean for clean, _ in photos), sum(robust for _, robust in photos))
