"""Options that mean the same in every command, as decorators, and the reading of them.

No torch here: completion and --help stay quick.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from advimg.cli.command import Decorator, option, options, use_config
from advimg.cli.completion import complete_model, complete_target
from advimg.cli.param_types import (
    AmplifyType,
    BatchSizeType,
    ChannelsType,
    ChoiceType,
    DevicesType,
    DeviceType,
    LabelsType,
    PlaceType,
    WholeTextType,
)
from advimg.errors import UsageError
from advimg.formatting import percent
from advimg.settings import DEFAULT_MODEL, MAX_PIXELS, Precision, Setting, Settings, described

if TYPE_CHECKING:
    from advimg.classifiers.spec import ModelSpec
    from advimg.cli.console import Console
    from advimg.models import Models
    from advimg.storage.url import Place

_reach: Callable[..., Decorator[Any]] = partial(option, group="What to reach")
_models: Callable[..., Decorator[Any]] = partial(option, group="Models")
_photos: Callable[..., Decorator[Any]] = partial(option, group="Photos")
_files: Callable[..., Decorator[Any]] = partial(option, group="Files")
_said: Callable[..., Decorator[Any]] = partial(option, group="What is said")
_OF_WORDS = ("labels", "prompt")
"""Options that hold for all models that see words typed by hand."""
_PLACE: Any = PlaceType()
RECORDED = "By default what the PNG's record says."


def _several_targets(ctx: click.Context, param: click.Parameter, targets: tuple[str, ...]) -> tuple[str, ...]:
    if not all(target.strip() for target in targets):
        raise UsageError("-t is empty; give the name of a class (is a variable unset?)")
    return targets


def _one_target(ctx: click.Context, param: click.Parameter, targets: tuple[str, ...]) -> str | None:
    if len(targets) > 1:
        raise UsageError(
            f"{ctx.info_name} takes one target and {len(targets)} were given: {', '.join(targets)}; `advimg batch` "
            "takes several"
        )
    return next(iter(_several_targets(ctx, param, targets)), None)


untargeted_option = _reach("--untargeted", is_flag=True, help="Leave the class that is seen, for any other.")
targets_options = options(
    _reach(
        "-t",
        "--target",
        "targets",
        metavar="NAME",
        multiple=True,
        callback=_several_targets,
        shell_complete=complete_target,
        help="The target class: a name or an index; or random, least-likely, runner-up, all. "
        "Given several times: each photo is attacked for each.",
    ),
    untargeted_option,
)
check_option = _models(
    "--check-on",
    metavar="NAME",
    multiple=True,
    shell_complete=complete_model,
    help="Tell what this model, which takes no part, sees in the file; exec:PROGRAM is given a PNG and prints JSON. "
    "May be given several times. A folder that goes on knows a program by this name alone; take another -O if "
    "it has changed.",
)
precision_option = _models(
    "--precision", type=click.Choice(get_args(Precision)), default="auto", help="Of the gradients only."
)
batch_options = options(
    _photos("-r", "--recursive", is_flag=True, help="Look into the folders of folders, and into archives there."),
    _photos(
        "--true-labels",
        metavar="folders|CSV",
        help="The true class of each photo, for clean and robust accuracy: its folder's name (photos/tabby/1.jpg), or "
        "from a table with the header photo,label. The journal does not keep it: a run without this option leaves its "
        "columns in results.csv empty.",
    ),
    option(
        "--worst-case",
        metavar="NAMES",
        group="The attack",
        help="Several attacks instead of one, such as pgd,apgd: one after the other until the target is reached. The "
        "record says which it was.",
    ),
    _models(
        "--batch-size",
        type=BatchSizeType(),
        default="auto",
        help="How many pictures share a pass: photos, and with --survive what changes make of them; auto goes by "
        "device and memory.",
    ),
    _models(
        "--on",
        metavar="ray|ADDRESS",
        help="Attack on a Ray cluster, with an actor on each GPU, or on CPUs: ray for one on this machine, or that of "
        "RAY_ADDRESS; ray://HOST:10001 or ray:HOST:PORT for one that runs. Its nodes need to "
        "see photos and outputs. Needs the extra ray.",
    ),
    _files(
        "-O",
        "--out-dir",
        type=_PLACE,
        required=True,
        help="Folder for all that is written, or a URL: s3://bucket/results.",
    ),
    _files(
        "--pack",
        type=click.IntRange(min=1),
        metavar="N",
        help="Write the results into tar archives that webdataset reads, OUT/results-00000.tar and so on: N attacks in "
        "each; the last, and those of large photos, hold fewer. Several devices write archives of their own, "
        "results-01-00000.tar. What is in no archive yet when a run is killed is made again.",
    ),
    _files("--retry-failed", is_flag=True, help="Try again what failed in an earlier run."),
    _files("-f", "--force", is_flag=True, help="Overwrite files that are there, and results of other settings."),
)
"""What ``batch`` and ``sweep`` have in common."""
photo_options = _photos(
    "--max-pixels", type=click.IntRange(min=1), default=MAX_PIXELS, help="Refuse photos with more pixels than this."
)


def target_option(*, recorded: bool = False) -> Decorator[Any]:
    """Add ``-t/--target``; ``recorded`` says that a PNG's record knows it, too."""
    return _reach(
        "-t",
        "--target",
        metavar="NAME",
        multiple=True,  # so that a second one is seen
        type=WholeTextType(),
        callback=_one_target,
        shell_complete=complete_target,
        help="The target class: a name or an index"
        + (f"; or untargeted. {RECORDED}" if recorded else "; or random, least-likely, runner-up."),
    )


def mask_option(text: str) -> Decorator[Any]:
    """Add ``--mask``."""
    return _reach("--mask", metavar="FILE", type=_PLACE, help=text)


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
        shape["type"] = ChoiceType(setting.choices)
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


def check_of_use(ctx: click.Context, given: Mapping[str, Any], settings: Settings) -> None:
    """Refuse what the command line asks for and what would change nothing.

    Raises:
        UsageError: there is such an option.
    """

    def is_here(name: str) -> bool:
        return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE

    if is_here("max_eps") and settings.eps != "auto" and not given.get("table"):
        raise UsageError("--max-eps bounds --eps auto; give that, or leave out --max-eps")
    check_worst_case(ctx)
    pictures = given["perturbation"] or given["figure"] or given.get("trace")
    if is_here("amplify") and (not pictures or given.get("output") == "-"):
        raise UsageError("--amplify is the factor of pictures, and none is written; leave it out")


def check_worst_case(ctx: click.Context) -> None:
    """Refuse one attack and several at once.

    Raises:
        UsageError: the command line has both.
    """
    both = (ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in ("attack", "worst_case"))
    if all(both):
        raise UsageError("--worst-case names the attacks; leave out --attack")


def tell_of_confidence(given: Mapping[str, Any], console: "Console") -> None:
    """Say what a confidence means to an attack without a target."""
    if given["untargeted"] and given["confidence"] is not None:
        left = percent(1 - given["confidence"])
        console.warn(
            f"--untargeted: with --confidence {given['confidence']:g} the class that the photo shows keeps at most "
            f"{left}; the class that is reached may have any confidence"
        )


def model_options(*, several: str, default: str | None = DEFAULT_MODEL, devices: bool = False) -> Decorator[Any]:
    """Add ``-m/--model``, what :func:`specs_of` reads besides, and ``--device``.

    Args:
        several: what it means to give several models.
        default: of ``--model``; None if a PNG's record knows it.
        devices: whether ``--device`` may name several; the parameter is then ``devices``.
    """
    device = "auto, cpu, cuda, cuda:N or mps"
    return options(
        _models(
            "-m",
            "--model",
            "models",
            metavar="NAME",
            default=(default,) if default else None,
            multiple=True,
            shell_complete=complete_model,
            help="A torchvision classifier; efficientnet_lite0, which needs no download; timm/NAME; hf:NAME; an ONNX "
            "file; clip:NAME or open_clip/NAME, which see the words of --labels; or a TOML file. "
            f"`advimg models` lists them. {several}" + ("" if default else f" {RECORDED}"),
        ),
        _models(
            "--weights",
            type=_PLACE,
            help="A state dict to load instead of the published weights (.pth, .pt or .safetensors).",
        ),
        _models(
            "--labels",
            type=LabelsType(),
            help="Names of the classes, with commas between them, or a file with one a line: for weights of your own, "
            "and the words that clip:NAME and open_clip/NAME are to see.",
        ),
        _models("--prompt", metavar="TEXT", help="The sentence around such words: 'a photo of a {}'."),
        _models("--input-size", type=click.IntRange(min=1), help="Side of the network's input, in pixels."),
        _models("--resize", type=click.IntRange(min=1), help="Length of the shorter side before the crop."),
        _models(
            "--interpolation",
            type=click.Choice(["bilinear", "bicubic", "lanczos", "box", "hamming", "nearest"]),
            help="Filter of the resize.",
        ),
        _models("--mean", type=ChannelsType(), help="Of red, green and blue in training: 0.485,0.456,0.406."),
        _models("--std", type=ChannelsType(), help="Of red, green and blue in training: 0.229,0.224,0.225."),
        _models("--squash", is_flag=True, default=None, help="Resize both sides, whatever the photo's shape."),
        _models("--channels", type=click.Choice(["rgb", "bgr"]), help="Order of the network's channels, mean and std."),
        _models(
            "--device",
            "devices",
            type=DevicesType(),
            default="auto",
            help=f"{device}; or several, like cuda:0,cuda:1: an actor of Ray on each (needs the extra ray).",
        )
        if devices
        else _models("--device", type=DeviceType(), default="auto", help=f"{device}."),
    )


def specs_of(models: Sequence[str], given: Mapping[str, Any]) -> "list[ModelSpec]":
    """Return the classifiers that :func:`model_options` have read.

    Raises:
        UsageError: a TOML file has a key that is unknown, missing or of the wrong type, or a checkpoint is given for
            several models.
        ClassifierError: a TOML file cannot be read.
    """
    from advimg.classifiers.sources.base import takes_words
    from advimg.classifiers.spec import ModelSpec

    own = {
        name: value
        for name in (
            *("weights", "labels", "prompt", "input_size", "resize", "interpolation", "mean", "std", "squash"),
            "channels",
        )
        if (value := given[name]) is not None
    }
    words = set(own) <= set(_OF_WORDS)
    if own and len(models) > 1 and not (words and all(map(takes_words, models))):
        flag = f"--{next(iter(own)).replace('_', '-')}"
        raise UsageError(f"{flag} with several models: say in a TOML file which it belongs to, and give -m FILE.toml")
    return [ModelSpec.of(model).changed(**own) for model in dict.fromkeys(models)]


def models_of(given: Mapping[str, Any]) -> "Models":
    """Return what :func:`model_options` and :func:`check_option` name.

    Raises:
        UsageError: no such model, or one is both attacked and to be checked on.
        ClassifierError: a TOML file, labels or weights cannot be read.
    """
    from advimg.classifiers.sources.base import takes_words
    from advimg.classifiers.spec import ModelSpec
    from advimg.models import Models

    words = {name: given[name] for name in _OF_WORDS if given[name] is not None}
    check_on = [
        ModelSpec.of(name).changed(**words) if words and takes_words(name) else name
        for name in dict.fromkeys(given["check_on"])
    ]
    return Models.of(specs_of(given["models"], given), check_on)


def true_labels_of(
    given: Mapping[str, Any], photos: "Collection[Place]", models: "Models", console: "Console"
) -> "dict[Place, int]":
    """Return the classes of photos that ``--true-labels`` gives, as the first model counts; none without it.

    Raises:
        PhotoError: the table cannot be read.
        UsageError: a model has no such class, or the table is none.
    """
    if given["true_labels"] is None:
        return {}
    from advimg.batches.true_labels import read_true_labels

    known = read_true_labels(given["true_labels"], photos, models.labels[0], models.other_labels)
    if len(known) < len(photos):
        console.warn(
            f"{given['true_labels']} names {len(known)} of the {len(photos)} photos; the others are in no accuracy"
        )
    return known


def picture_options(*, figure: bool) -> Decorator[Any]:
    """Add the options for the pictures written: ``--perturbation``, ``--amplify``, ``--figure``, ``--metadata``."""
    return options(
        _files("--perturbation/--no-perturbation", default=True, help="Write the perturbation's picture, amplified."),
        _files(
            "--amplify",
            type=AmplifyType(),
            default="auto",
            help="Its factor, above 0 and at most 255; auto lets the largest change span the range.",
        ),
        _files("--figure/--no-figure", default=figure, help="Draw photo, perturbation and result side by side."),
        _files("--metadata/--no-metadata", default=True, help="Store the record in the PNG's text chunk."),
    )


def _debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and ctx.obj is not None:
        ctx.obj["debug"] = True


config_option = _said(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    expose_value=False,
    is_eager=True,
    callback=use_config,
    help="Read options that are not given here from this TOML file.",
)
stream_options = options(
    _said("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
    _said("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
    _said("-v", "--verbose", is_flag=True, help="Say more: device, precision, what the classifier sees."),
    _said("--debug", is_flag=True, expose_value=False, callback=_debug, help="Show the traceback of an error."),
    config_option,
)
"""What every command has."""
