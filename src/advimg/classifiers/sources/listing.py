"""What ``advimg models`` says of a classifier."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A classifier that can be loaded. The field names are the keys of ``models --json``.

    Attributes:
        name: what ``--model`` takes.
        input_size: width and height of what the network is fed; None where it is not known without its weights.
        parameters: how many; None where it is not known.
        top1: its published accuracy on ImageNet's validation set, in per cent; None where none is published.
        on_disk: whether it can be loaded without a download.
    """

    name: str
    input_size: int | None
    parameters: int | None
    top1: float | None
    on_disk: bool
