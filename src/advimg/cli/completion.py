"""What shells complete: names of classes and models."""

import click
from click.shell_completion import CompletionItem

from advimg.labels import imagenet_labels
from advimg.settings import DEFAULT_MODEL


def complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the ImageNet classes that begin so, as slugs."""
    labels = imagenet_labels()
    # Slugs, because they need no quotes in any shell.
    return [
        CompletionItem(labels.slug(index), help=labels[index])
        for index in range(len(labels))
        if labels.slug(index).startswith(incomplete.lower().replace(" ", "_"))
    ]


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return those of the usual models that begin so."""
    names = (DEFAULT_MODEL, "resnet50:IMAGENET1K_V2", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
