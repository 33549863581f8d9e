"""What a classifier is known by, without its network."""

from dataclasses import dataclass

from advimg.classifiers.preprocessing import Preprocessing
from advimg.labels import Labels


@dataclass(frozen=True, eq=False, kw_only=True)
class Identity:
    """What a classifier is known by: all that a record or a plan of attacks says of it.

    Attributes:
        name: what the record calls it, such as ``resnet50:IMAGENET1K_V1``.
        preprocessing: its official preprocessing.
        labels: one name for each logit.
        weights: the name of the file that was loaded instead of the published weights, if any.
        weights_sha256: of the weights' file; None where there is none.
    """

    name: str
    preprocessing: Preprocessing
    labels: Labels
    weights: str | None = None
    weights_sha256: str | None = None
