"""What the attacks of the tests share."""

import torch
from torch import Tensor

from advimg.attacks.base import Attack
from advimg.settings import Settings


class Shifted(Attack):
    """Proposes the photo and a change, which is none at first; what becomes of it is for a subclass to say."""

    def __init__(self, photo: Tensor, settings: Settings, eps: float, free: Tensor | None = None) -> None:
        super().__init__(photo, settings, eps, free)
        self._delta = torch.zeros(photo.shape)

    def propose(self, out: Tensor) -> None:
        out.copy_(self._delta + self.photo)
