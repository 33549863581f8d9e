"""Turn a photo into an optical illusion for an image classifier, and verify the file on disk.

>>> import advimg
>>> outcome = advimg.attack("dog.jpg", target="pelican")   # doctest: +SKIP
>>> print(outcome)                                         # doctest: +SKIP
>>> outcome.save("dog_pelican.png")                        # doctest: +SKIP
>>> advimg.batch("photos", "pelican", out_dir="illusions") # doctest: +SKIP

Importing the package imports no torch; names are loaded when they are first used (PEP 562).
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from advimg.api import attack, batch, classify, merge, verify, verify_folder
    from advimg.classifiers.classifier import Classifier, Verdict
    from advimg.classifiers.load import load_classifier
    from advimg.errors import AdvimgError
    from advimg.labels import Labels
    from advimg.outcome import Outcome
    from advimg.record import Record
    from advimg.settings import Settings
    from advimg.verification import Verification

_HOMES = {
    "AdvimgError": "advimg.errors",
    "Classifier": "advimg.classifiers.classifier",
    "Labels": "advimg.labels",
    "Outcome": "advimg.outcome",
    "Record": "advimg.record",
    "Settings": "advimg.settings",
    "Verdict": "advimg.classifiers.classifier",
    "Verification": "advimg.verification",
    "attack": "advimg.api",
    "batch": "advimg.api",
    "classify": "advimg.api",
    "load_classifier": "advimg.classifiers.load",
    "merge": "advimg.api",
    "verify": "advimg.api",
    "verify_folder": "advimg.api",
}

__all__ = [
    "AdvimgError",
    "Classifier",
    "Labels",
    "Outcome",
    "Record",
    "Settings",
    "Verdict",
    "Verification",
    "__version__",
    "attack",
    "batch",
    "classify",
    "load_classifier",
    "merge",
    "verify",
    "verify_folder",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
