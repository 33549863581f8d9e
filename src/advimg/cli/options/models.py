"""Options that say which models, and the reading of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advimg.cli.options.completion import complete_model
from advimg.cli.options.decorators import Decorator, together
from advimg.cli.options.param_types import ChannelsType, DevicesType, DeviceType
from advimg.errors import UsageError
from advimg.settings import DEFAULT_MODEL

if TYPE_CHECKING:
    from advimg.classifiers.spec import ModelSpec


def model_options(*, several: str, default: str | None = DEFAULT_MODEL, devices: bool = False) -> Decorator[Any]:
    """Add ``-m/--model``, what :func:`specs_of` reads besides, and ``--device``.

    Args:
        several: what it means to give several models.
        default: of ``--model``.
        devices: whether ``--device`` may name several; the parameter is then ``devices``.
    """
    return together(
        click.option(
            "-m",
            "--model",
            "models",
            metavar="NAME",
            default=(default,) if default else None,
            multiple=True,
            shell_complete=complete_model,
            help="A torchvision classifier; efficientnet_lite0, which needs no download; timm/NAME; or a TOML file. "
            f"`advimg models` lists them. {several}" + ("" if default else " By default what the PNG's record says."),
        ),
        click.option(
            "--weights",
            type=click.Path(path_type=Path),
            help="A state dict to load instead of the published weights (.pth, .pt or .safetensors).",
        ),
        click.option(
            "--labels", type=click.Path(path_type=Path), help="Names of the classes, one a line, for such weights."
        ),
        click.option("--input-size", type=click.IntRange(min=1), help="Side of what the network is fed, in pixels."),
        click.option("--resize", type=click.IntRange(min=1), help="Length of the shorter side before the crop."),
        click.option("--interpolation", type=click.Choice(["bilinear", "bicubic"]), help="Filter of the resize."),
        click.option("--mean", type=ChannelsType(), help="Of red, green and blue in training: 0.485,0.456,0.406."),
        click.option("--std", type=ChannelsType(), help="Of red, green and blue in training: 0.229,0.224,0.225."),
        _devices_option() if devices else _device_option(),
    )


def check_option() -> Decorator[Any]:
    """Add ``--check-on``."""
    return click.option(
        "--check-on",
        metavar="NAME",
        multiple=True,
        shell_complete=complete_model,
        help="Tell what this model, which takes no part, sees in the file. May be given several times.",
    )


def specs_of(models: Sequence[str], given: Mapping[str, Any]) -> "list[ModelSpec]":
    """Return the classifiers that :func:`model_options` have read.

    Raises:
        UsageError: a TOML file has a key that is unknown, missing or of the wrong type, or a checkpoint is given for
            several models.
        ClassifierError: a TOML file cannot be read.
    """
    from advimg.classifiers.spec import ModelSpec

    own = {
        name: value
        for name in ("weights", "labels", "input_size", "resize", "interpolation", "mean", "std")
        if (value := given[name]) is not None
    }
    if own and len(models) > 1:
        option = f"--{next(iter(own)).replace('_', '-')}"
        raise UsageError(f"{option} with several models: say in a TOML file which it belongs to, and give -m FILE.toml")
    return [ModelSpec.of(model).changed(**own) for model in dict.fromkeys(models)]


_DEVICE = "auto, cpu, cuda, cuda:N or mps"


def _device_option() -> Decorator[Any]:
    return click.option("--device", type=DeviceType(), default="auto", help=f"{_DEVICE}.")


def _devices_option() -> Decorator[Any]:
    return click.option(
        "--device",
        "devices",
        type=DevicesType(),
        default="auto",
        help=f"{_DEVICE}; or several, like cuda:0,cuda:1: a process on each, which share the photos.",
    )
