"""Transforms between file and network: against their real counterparts, and the gradient that passes them."""

from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from advimg.classifiers.gradient.network import GradientNetwork
from advimg.engine.criterion import Criterion
from advimg.engine.engine import Engine
from advimg.engine.forward import forward
from advimg.engine.job import Job
from advimg.engine.paths import Path, TransformedPath
from advimg.registry import TRANSFORMS
from advimg.settings import Settings
from advimg.transforms.base import Transform, apply_all
from advimg.transforms.mirror import Mirror
from tests.conftest import linear_classifier, random_photo, sample


def _smooth() -> Image.Image:
    with Image.open(sample("chelsea.png")) as image:
        return image.convert("RGB").crop((100, 20, 356, 276)).resize((96, 96), Image.Resampling.LANCZOS)


def _tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("seed", range(12))
def test_a_transform_does_what_its_real_counterpart_does(name: str, seed: int) -> None:
    """Nearly: a real resize and paste are of whole pixels and levels."""
    transform: Transform = TRANSFORMS[name]()
    picture = _smooth()
    real = _tensor(transform.apply_to_picture(picture, Random(seed)))
    changed = transform.apply(_tensor(picture), Random(seed))
    assert changed.shape == real.shape
    assert float((changed - real).abs().mean()) < 9
    assert torch.corrcoef(torch.stack([changed.flatten(), real.flatten()]))[0, 1] > 0.95


def test_a_mirror_is_exact_and_drawn_anew() -> None:
    levels = torch.rand(3, 4, 5)
    drawn = [Mirror().apply(levels, Random(seed)) for seed in range(50)]
    mirrored = [torch.equal(each, levels.flip(-1)) for each in drawn]
    assert 10 < sum(mirrored) < 40
    assert all(m or torch.equal(each, levels) for m, each in zip(mirrored, drawn, strict=True))
    assert torch.equal(apply_all([], levels, Random(0)), levels)


@pytest.mark.parametrize("size", [(31, 24), (24, 33), (50, 50)])
def test_the_gradient_passes_a_transform_of_the_photo(size: tuple[int, int]) -> None:
    """The gradient of the mirrored photo is that of the photo, mirrored; only the window has one."""
    classifier = linear_classifier(classes=3, size=16)
    photo = random_photo(*size)
    resize_crop = classifier.preprocessing.resize_crop(*size)
    rows, columns = resize_crop.window
    whole = torch.from_numpy(photo.levels.transpose(2, 0, 1).copy()).float()
    path = TransformedPath(Path(resize_crop, resize_crop.window), whole, [Mirror()], classifier)
    window = whole[:, rows, columns].contiguous()
    mirroring = next(seed for seed in range(20) if Random(seed).random() < 0.5)
    mirrored = random_photo(*size).levels[:, ::-1]
    official = classifier.preprocessing.stock(Image.fromarray(np.ascontiguousarray(mirrored)))
    given = path.forward(window, Random(mirroring))
    assert float((classifier.preprocessing.normalise(given) - official).abs().max()) <= 2.1 / 255

    network = GradientNetwork(classifier, "fp32")
    slope = forward([given], network, [Criterion(1)]).gradient(["logit"], [1.0])[0]
    carried = path.backward(slope, out=torch.empty_like(window))
    back = torch.zeros_like(whole)
    back[:, rows, columns] = resize_crop.backward(slope, out=torch.empty_like(window))
    expected = back.flip(-1)[:, rows, columns]
    assert torch.allclose(carried, expected, atol=1e-7)

    straight = path.forward(window, None)
    assert torch.equal(straight, resize_crop.forward(window))
    assert torch.equal(
        path.backward(slope, out=torch.empty_like(window)), resize_crop.backward(slope, out=torch.empty_like(window))
    )


def test_a_file_made_through_a_mirror_holds_mirrored_too() -> None:
    classifier, other = (linear_classifier(classes=5, size=24, seed=seed, scale=0.05) for seed in (0, 1))
    photo = random_photo(40, 30)
    for classifiers in ((classifier,), (classifier, other)):
        results = {
            transform: Engine(*classifiers).attack(
                Job(photo=photo, target=2, settings=Settings(eps=12, steps=60, transform=transform))
            )
            for transform in (None, "mirror")
        }
        for transform, result in results.items():
            assert result.fooled
            assert np.abs(result.levels.astype(int) - photo.levels).max() <= 12
            mirrored = [each.judge(np.ascontiguousarray(result.levels[:, ::-1])).top1 == 2 for each in classifiers]
            assert all(mirrored) == (transform == "mirror")
