"""The picture with noise added."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advimg.changes import Range, number
from advimg.registry import TRANSFORMS
from advimg.transforms.base import Transform


@TRANSFORMS.register("noise")
@dataclass(frozen=True, slots=True)
class Noise(Transform):
    """Adds independent Gaussian noise to all levels, and clips them.

    Attributes:
        levels: the standard deviation.
        seed: of the noise. A single one is always the same noise, in the attack and in the verdict. Of a range, as it
            is by default, the verdict takes the ends and the middle, and each pass of an attack any seeds but these:
            the file has to hold after noise that it was not made for. The verdict's are three samples, the same
            every time.
    """

    levels: float = number(4.0, at_least=0.01, at_most=255)
    seed: int = number(Range(0, 1000), whole=True, seed=True, at_least=0, at_most=2**31 - 1)

    def apply(self, picture: Image.Image) -> Image.Image:
        """Add the noise, and round."""
        return Image.fromarray(self._noisy(picture).round().clip(0, 255).astype(np.uint8))

    def pull_back(self, gradient: Tensor, picture: Image.Image) -> Tensor:
        """Leave the gradient as it is; what is clipped has none."""
        noisy = torch.from_numpy(self._noisy(picture)).permute(2, 0, 1).to(gradient.device)
        return gradient.masked_fill((noisy < 0) | (noisy > 255), 0)

    def _noisy(self, picture: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        levels = np.asarray(picture, dtype=np.float32)
        drawn = np.random.default_rng(self.seed).standard_normal(levels.shape, dtype=np.float32)
        return levels + np.float32(self.levels) * drawn
