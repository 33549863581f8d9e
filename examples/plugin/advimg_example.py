import math
from pathlib import Path

import torch

from advimg.attacks.pgd import PGD
from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.sources.base import Listed, Published, Source
from advimg.labels import Labels


class Cosine(PGD):
    """PGD whose steps shorten along a cosine (arXiv:1608.03983), from half of eps to a fiftieth."""

    @property
    def step_size(self) -> float:
        return self.eps * (0.26 + 0.24 * math.cos(math.pi * self.steps / self.settings.max_steps))


class Edges(torch.nn.Module):
    """Tells whether edges run across or down, by the mean slopes: pictures [n, 3, h, w] to logits [n, 2]."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return 50 * torch.stack([pictures.diff(dim=axis).abs().mean((1, 2, 3)) for axis in (2, 3)], 1)


NAME = "edges/direction"
LISTED = Listed(name=NAME, input_size=64, parameters=0, top1=None, on_disk=True)
PUBLISHED = Published(
    name=NAME,
    build=lambda *_: Edges(),
    preprocessing=Preprocessing(resize=64, crop=64, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3),
    labels=Labels(["across", "down"]),
    fetch=lambda _: Path(__file__),  # in the place of weights: what the network is
    load=lambda *_: Edges(),
)
EDGES = Source(prefix="edges/", names=lambda: [NAME], find={NAME: PUBLISHED}.get, listed=lambda: iter([LISTED]))
