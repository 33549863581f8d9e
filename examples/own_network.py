"""Attack a network of your own: train a small one on made-up pictures, wrap it, fool it, save the file.

Run with: python examples/own_network.py
"""

import torch
from torch import nn

import advimg

CLASSES = ("stripes across", "stripes down")


def pictures(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy striped pictures [count, 3, 32, 32], 0..1, and their classes."""
    labels = torch.randint(0, 2, (count,), generator=generator)
    waves = 0.5 + 0.15 * torch.sin(torch.arange(32) * 1.2)
    across = waves[:, None].expand(32, 32)
    stripes = torch.where(labels[:, None, None] == 0, across, across.T)
    noise = 0.2 * torch.rand(count, 3, 32, 32, generator=generator) - 0.1
    return (stripes[:, None] + noise).clamp(0, 1), labels


def trained() -> nn.Module:
    """Train a small convolutional network for a second or two."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 2))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        batch, labels = pictures(64, generator)
        loss = nn.functional.cross_entropy(network((batch - 0.5) / 0.5), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network


def main() -> None:
    """Wrap the network, attack one of its pictures, and save the result."""
    # For a network that is shown JPEGs, add then="jpeg:75"; for one with code of its own before it, preprocess=CODE, a
    # function from a PIL picture to the network's input: the verdicts come from there.
    classifier = advimg.Classifier.wrap(
        trained(), labels=CLASSES, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize=32, crop=32, name="stripes"
    )
    batch, labels = pictures(1, torch.Generator().manual_seed(7))
    photo = (batch[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    target = 1 - int(labels[0])

    outcome = advimg.attack(photo, target, model=classifier, eps=24)
    for title, predictions in (("before", outcome.record.before), ("after", outcome.record.after)):
        print(f"{title:<7}", ", ".join(f"{prediction.name} {prediction.confidence:.1%}" for prediction in predictions))
    print("saved  ", outcome.save("stripes.png", overwrite=True))


if __name__ == "__main__":
    main()
