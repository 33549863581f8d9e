"""Options that mean the same in every command, as decorators, and the reading of them.

No torch here: completion and --help stay quick.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from advimg.cli.command import Decorator, option, options, use_config
from advimg.cli.completion import complete_model, complete_target
from advimg.cli.param_types import BatchSizeType, ChannelsType, DevicesType, DeviceType
from advimg.errors import UsageError
from advimg.settings import DEFAULT_MODEL, MAX_PIXELS, Precision, Setting, Settings, described

if TYPE_CHECKING:
    from advimg.classifiers.spec import ModelSpec
    from advimg.models import Models

_RECORDED = "By default what the PNG's record says."


def target_option(*, recorded: bool = False) -> Decorator[Any]:
    """Add ``-t/--target``; ``recorded`` says that a PNG's record knows it, too."""
    return option(
        "-t",
        "--target",
        metavar="NAME",
        shell_complete=complete_target,
        group="What to reach",
        help="The target class: a name or an index"
        + (f". {_RECORDED}" if recorded else "; or random, least-likely, runner-up."),
    )


def targets_options() -> Decorator[Any]:
    """Add ``-t/--target`` that may be given several times, and ``--untargeted``."""
    return options(
        option(
            "-t",
            "--target",
            "targets",
            metavar="NAME",
            multiple=True,
            shell_complete=complete_target,
            group="What to reach",
            help="The target class: a name or an index; or random, least-likely, runner-up, all. "
            "Given several times: each photo towards each.",
        ),
        untargeted_option(),
    )


def untargeted_option() -> Decorator[Any]:
    """Add ``--untargeted``."""
    return option(
        "--untargeted", is_flag=True, group="What to reach", help="Leave the class that is seen, for any other."
    )


def mask_option(text: str) -> Decorator[Any]:
    """Add ``--mask``."""
    return option("--mask", metavar="FILE", type=click.Path(path_type=Path), group="What to reach", help=text)


def settings_options(kind: type[Settings] = Settings, *, without: Sequence[str] = ()) -> Decorator[Any]:
    """Add an option for each setting of a class, for :func:`settings_of`."""
    return options(*(setting_option(each) for each in described(kind) if each.name not in without))


def setting_option(setting: Setting | str, *declarations: str, **changes: Any) -> Decorator[Any]:
    """Add the option of a setting.

    Args:
        setting: a setting, or the name of one of :class:`Settings`.
        declarations: further names, such as that of the parameter.
        changes: what differs from the option of an attack.
    """
    if isinstance(setting, str):
        (setting,) = (each for each in described() if each.name == setting)
    about, flag = setting.about, f"--{setting.name.replace('_', '-')}"
    shape: dict[str, Any] = {"type": setting.kind, "help": about.help, "group": about.group}
    if setting.kind is bool:
        shape = {**shape, "is_flag": True, "default": setting.default}
        flag += f"/--no-{flag[2:]}" * setting.default
    elif setting.default is not None:
        shape["default"] = setting.default
    if setting.choices:
        shape["type"] = click.Choice(setting.choices)
    if about.levels:
        shape |= {"type": str, "metavar": "LEVELS"}
    if about.shown:
        shape["show_default"] = about.shown
    return option(*([about.short] if about.short else []), flag, *declarations, **shape | changes)


def settings_of(given: Mapping[str, Any], kind: type[Settings] = Settings) -> Settings:
    """Return the settings that :func:`settings_options` have read.

    Raises:
        UsageError: one is out of range.
    """
    return kind(**{each.name: given[each.name] for each in described(kind) if each.name in given})


def model_options(*, several: str, default: str | None = DEFAULT_MODEL, devices: bool = False) -> Decorator[Any]:
    """Add ``-m/--model``, what :func:`specs_of` reads besides, and ``--device``.

    Args:
        several: what it means to give several models.
        default: of ``--model``; None if a PNG's record knows it.
        devices: whether ``--device`` may name several; the parameter is then ``devices``.
    """
    device = "auto, cpu, cuda, cuda:N or mps"
    return options(
        option(
            "-m",
            "--model",
            "models",
            metavar="NAME",
            default=(default,) if default else None,
            multiple=True,
            shell_complete=complete_model,
            group="Models",
            help="A torchvision classifier; efficientnet_lite0, which needs no download; timm/NAME; or a TOML file. "
            f"`advimg models` lists them. {several}" + ("" if default else f" {_RECORDED}"),
        ),
        option(
            "--weights",
            type=click.Path(path_type=Path),
            group="Models",
            help="A state dict to load instead of the published weights (.pth, .pt or .safetensors).",
        ),
        option(
            "--labels",
            type=click.Path(path_type=Path),
            group="Models",
            help="Names of the classes, one a line, for such weights.",
        ),
        option(
            "--input-size", type=click.IntRange(min=1), group="Models", help="Side of the network's input, in pixels."
        ),
        option(
            "--resize", type=click.IntRange(min=1), group="Models", help="Length of the shorter side before the crop."
        ),
        option(
            "--interpolation",
            type=click.Choice(["bilinear", "bicubic"]),
            group="Models",
            help="Filter of the resize.",
        ),
        option(
            "--mean",
            type=ChannelsType(),
            group="Models",
            help="Of red, green and blue in training: 0.485,0.456,0.406.",
        ),
        option(
            "--std", type=ChannelsType(), group="Models", help="Of red, green and blue in training: 0.229,0.224,0.225."
        ),
        option(
            "--device",
            "devices",
            type=DevicesType(),
            default="auto",
            group="Models",
            help=f"{device}; or several, like cuda:0,cuda:1: a process on each, which share the photos.",
        )
        if devices
        else option("--device", type=DeviceType(), default="auto", group="Models", help=f"{device}."),
    )


def check_option() -> Decorator[Any]:
    """Add ``--check-on``."""
    return option(
        "--check-on",
        metavar="NAME",
        multiple=True,
        shell_complete=complete_model,
        group="Models",
        help="Tell what this model, which takes no part, sees in the file. May be given several times.",
    )


def precision_option() -> Decorator[Any]:
    """Add ``--precision``."""
    return option(
        "--precision",
        type=click.Choice(get_args(Precision)),
        default="auto",
        group="Models",
        help="Of the gradients only.",
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
        flag = f"--{next(iter(own)).replace('_', '-')}"
        raise UsageError(f"{flag} with several models: say in a TOML file which it belongs to, and give -m FILE.toml")
    return [ModelSpec.of(model).changed(**own) for model in dict.fromkeys(models)]


def models_of(given: Mapping[str, Any]) -> "Models":
    """Return what :func:`model_options` and :func:`check_option` name.

    Raises:
        UsageError: no such model, or one is both attacked and to be checked on.
        ClassifierError: a TOML file, labels or weights cannot be read.
    """
    from advimg.models import Models

    return Models.of(specs_of(given["models"], given), list(dict.fromkeys(given["check_on"])))


def batch_options() -> Decorator[Any]:
    """Add what ``batch`` and ``sweep`` have in common: folders, and what an earlier run left there."""
    folder = click.Path(path_type=Path)
    return options(
        option("-r", "--recursive", is_flag=True, group="Photos", help="Look into the folders of folders."),
        option(
            "--batch-size",
            type=BatchSizeType(),
            default="auto",
            group="Models",
            help="How many photos share a pass; auto goes by device and memory.",
        ),
        option("-O", "--out-dir", type=folder, required=True, group="Files", help="Folder for all that is written."),
        option("--retry-failed", is_flag=True, group="Files", help="Try again what failed in an earlier run."),
        option(
            "-f",
            "--force",
            is_flag=True,
            group="Files",
            help="Overwrite files that are there, and results of other settings.",
        ),
    )


def photo_options() -> Decorator[Any]:
    """Add ``--max-pixels``."""
    return option(
        "--max-pixels",
        type=click.IntRange(min=1),
        default=MAX_PIXELS,
        group="Photos",
        help="Refuse photos with more pixels than this.",
    )


def picture_options(*, figure: bool) -> Decorator[Any]:
    """Add the options for the pictures written: ``--perturbation``, ``--amplify``, ``--figure``, ``--metadata``."""
    return options(
        option(
            "--perturbation/--no-perturbation",
            default=True,
            group="Files",
            help="Write the perturbation's picture, amplified.",
        ),
        option("--amplify", type=float, default=10, group="Files", help="Its factor, above 0 and at most 255."),
        option(
            "--figure/--no-figure",
            default=figure,
            group="Files",
            help="Draw photo, perturbation and result side by side.",
        ),
        option(
            "--metadata/--no-metadata", default=True, group="Files", help="Store the record in the PNG's text chunk."
        ),
    )


def stream_options() -> Decorator[Any]:
    """Add ``--json``, ``-q``, ``-v``, ``--debug`` and ``--config``, which every command has."""
    return options(
        option("--json", "as_json", is_flag=True, group="What is said", help="Print the result as JSON on stdout."),
        option("-q", "--quiet", is_flag=True, group="What is said", help="Say nothing but errors."),
        option(
            "-v",
            "--verbose",
            is_flag=True,
            group="What is said",
            help="Say more: device, precision, what the classifier sees.",
        ),
        option(
            "--debug",
            is_flag=True,
            expose_value=False,
            callback=_debug,
            group="What is said",
            help="Show the traceback of an error.",
        ),
        option(
            "--config",
            metavar="FILE",
            type=click.Path(path_type=Path),
            expose_value=False,
            is_eager=True,
            callback=use_config,
            group="What is said",
            help="Read options that are not given here from this TOML file.",
        ),
    )


def _debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and ctx.obj is not None:
        ctx.obj["debug"] = True
