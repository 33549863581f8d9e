"""The bytes of a linear network's attacks, which no change of the code may alter unnoticed.

Where one is meant to: ``python -m tests.test_golden`` writes the file anew, and the commit says why.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import advimg
from advimg.images.decode import photo_from_pixels
from advimg.images.photo import Photo
from tests.conftest import linear_classifier, random_photo

_FILE = Path(__file__).with_suffix(".json")

_CASES: dict[str, dict[str, Any]] = {
    "linf": {"eps": 4, "confidence": 0.99999},
    "small steps": {"eps": 3, "step_size": 0.3, "momentum": 0, "steps": 30},
    "margin": {"eps": 4, "loss": "margin", "steps": 12, "confidence": 0.99999},
    "logit": {"eps": 4, "loss": "logit", "confidence": 0.95},
    "auto": {"eps": "auto", "confidence": 0.95},
    "l2": {"norm": "l2", "eps": 2},
    "l2 short": {"norm": "l2", "eps": 0.2, "steps": 6},
    "restarts": {"eps": 1, "steps": 3, "restarts": 2, "confidence": 0.9999},
    "l2 restarts": {"norm": "l2", "eps": 0.2, "steps": 3, "restarts": 1, "confidence": 0.9999},
    "transfer": {"eps": 4, "transfer": True, "steps": 10},
    "untargeted": {"eps": 2, "target": "untargeted"},
    "random": {"eps": 4, "target": "random", "seed": 7},
    "mask": {"eps": 6, "confidence": 0.999, "masked": True},
    "ensemble": {"eps": 4, "networks": 2},
}


def _attack(target: str | int = 2, masked: bool = False, networks: int = 1, **settings: Any) -> dict[str, Any]:
    """Attack a photo of noise; return what its record counts, and the hash of the picture's levels."""
    classifiers = [linear_classifier(classes=5, size=48, seed=number, scale=0.05) for number in range(networks)]
    outcome = advimg.attack(
        random_photo(48, 48),
        target,
        model=classifiers,
        mask=_mask() if masked else None,
        precision="fp32",
        **{"refine": 0} | settings,
    )
    counted = {name: getattr(outcome.record, name) for name in ("fooled", "steps", "gradients", "linf", "eps")}
    return counted | {"levels": hashlib.sha256(outcome.levels.tobytes()).hexdigest()[:16]}


def _mask() -> Photo:
    white = np.zeros((48, 48, 3), dtype=np.uint8)
    white[8:44, 4:46] = 255
    return photo_from_pixels(white)


@pytest.mark.parametrize("name", _CASES)
def test_the_bytes_are_as_they_were(name: str) -> None:
    assert _attack(**_CASES[name]) == json.loads(_FILE.read_text(encoding="ascii"))[name]


if __name__ == "__main__":
    _FILE.write_text(json.dumps({name: _attack(**case) for name, case in _CASES.items()}, indent=1) + "\n", "ascii")
