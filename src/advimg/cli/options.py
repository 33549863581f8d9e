"""Options that mean the same in every command, as small decorators. No torch here: completion and --help stay quick."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import click
from click.shell_completion import CompletionItem

from advimg.errors import UsageError
from advimg.labels import imagenet_labels
from advimg.settings import (
    DEFAULT_MODEL,
    MAX_PIXELS,
    Eps,
    LossName,
    Norm,
    Precision,
    Settings,
    parse_eps,
    parse_eps_or_auto,
)

_Command = TypeVar("_Command", bound=Callable[..., Any])
Decorator = Callable[[_Command], _Command]

DEFAULTS = Settings()

if TYPE_CHECKING:
    _Eps = click.ParamType[Eps]
    _Budgets = click.ParamType[tuple[float, ...]]
    _Size = click.ParamType[int | Literal["auto"]]
    _Channels = click.ParamType[tuple[float, float, float]]

    from advimg.classifiers.spec import ModelSpec
else:
    _Eps = _Budgets = _Size = _Channels = click.ParamType  # cannot be subscripted before click 8.4


class EpsType(_Eps):
    """ε in levels of 255: ``10`` or ``10/255``; where it can be looked for, ``auto``."""

    name = "levels"

    def __init__(self, *, auto: bool) -> None:
        self._auto = auto

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Eps:
        """Return whole levels, 1..255, or ``auto``; for L2 a number above 0."""
        if isinstance(value, int | float):
            return value
        return parse_eps_or_auto(value, _norm(ctx)) if self._auto else parse_eps(value, _norm(ctx))


class BatchSizeType(_Size):
    """How many photos share a pass: ``auto``, or a number from 1."""

    name = "photos"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Literal["auto"]:
        """Return ``auto`` or the number."""
        if value == "auto":
            return "auto"
        size: int = click.IntRange(min=1).convert(value, param, ctx)
        return size


class ChannelsType(_Channels):
    """A value for each channel: ``0.485,0.456,0.406``, or one for all."""

    name = "r,g,b"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        """Return three values."""
        if isinstance(value, tuple):
            return value
        try:
            values = tuple(map(float, value.split(",")))
        except ValueError:
            values = ()
        if len(values) == 1:
            values *= 3
        if len(values) != 3:
            self.fail(f"{value!r}: give three values, like 0.485,0.456,0.406", param, ctx)
        red, green, blue = values
        return red, green, blue


def _complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    labels = imagenet_labels()
    # Slugs, because they need no quotes in any shell.
    return [
        CompletionItem(labels.slug(index), help=labels[index])
        for index in range(len(labels))
        if labels.slug(index).startswith(incomplete.lower().replace(" ", "_"))
    ]


def _complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    names = (DEFAULT_MODEL, "resnet50:IMAGENET1K_V2", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def target_option(*, recorded: bool = False) -> Decorator[Any]:
    """Add ``-t/--target``; ``recorded`` says that a PNG's record knows it, too."""
    return click.option(
        "-t",
        "--target",
        metavar="NAME",
        shell_complete=_complete_target,
        help="The class the picture shall be taken for: a name or an index"
        + (". By default what the PNG's record says." if recorded else "; or random, least-likely, runner-up."),
    )


def untargeted_option() -> Decorator[Any]:
    """Add ``--untargeted``."""
    return click.option("--untargeted", is_flag=True, help="Go away from the class that is seen, to any other.")


def targets_option() -> Decorator[Any]:
    """Add ``-t/--target`` that may be given several times."""
    return click.option(
        "-t",
        "--target",
        "targets",
        metavar="NAME",
        multiple=True,
        shell_complete=_complete_target,
        help="The class the pictures shall be taken for: a name or an index; or random, least-likely, runner-up, all. "
        "Given several times: each photo towards each.",
    )


_DEFAULT_L2 = 3.0
_DEFAULT_BUDGETS = (1.0, 2.0, 4.0, 8.0, 16.0)


def _norm(ctx: click.Context | None) -> Norm:
    """Return the norm that was given; ``--norm`` is read before all others."""
    return (ctx.params.get("norm") if ctx else None) or "linf"


def _norm_option(*, default: Norm | None, help_: str) -> Decorator[Any]:
    return click.option("--norm", type=click.Choice(get_args(Norm)), default=default, is_eager=True, help=help_)


_EPS = "The most any colour channel of any pixel may change, in levels of 255 (10 or 10/255)"


def eps_options() -> Decorator[Any]:
    """Add ``-e/--eps`` and ``--max-eps`` for an attack."""
    return _together(
        click.option(
            "-e",
            "--eps",
            type=EpsType(auto=True),
            show_default=f"{DEFAULTS.eps}; {_DEFAULT_L2:g} with --norm l2",
            help=f"{_EPS}, or auto: the least that does it.",
        ),
        click.option(
            "--max-eps", type=EpsType(auto=False), default=DEFAULTS.max_eps, help="The most that --eps auto may try."
        ),
    )


class BudgetsType(_Budgets):
    """Several ε: ``1,2,4,8``."""

    name = "levels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return them rising, each once."""
        if isinstance(value, tuple):
            return value
        return tuple(sorted({parse_eps(text, _norm(ctx)) for text in value.split(",")}))


def budgets_option() -> Decorator[Any]:
    """Add ``-e/--eps`` that takes several."""
    return click.option(
        "-e",
        "--eps",
        "budgets",
        type=BudgetsType(),
        show_default="1,2,4,8,16; as many halves with --norm l2",
        help="The budgets to try, in levels of 255, with commas between them.",
    )


def batch_size_option() -> Decorator[Any]:
    """Add ``--batch-size``."""
    return click.option(
        "--batch-size",
        type=BatchSizeType(),
        default="auto",
        help="How many photos share a pass; auto goes by device and memory.",
    )


def recorded_eps_option() -> Decorator[Any]:
    """Add ``-e/--eps`` where a PNG's record knows it."""
    help_ = f"{_EPS}. By default what the PNG's record says."
    return _together(
        click.option("-e", "--eps", type=EpsType(auto=False), help=help_),
        _norm_option(default=None, help_="What eps bounds. By default what the PNG's record says."),
    )


def model_options(*, default: str | None = DEFAULT_MODEL, several: str = "") -> Decorator[Any]:
    """Add ``-m/--model``, what :func:`specs_of` reads besides, and ``--device``.

    Args:
        default: of ``--model``.
        several: what it means to give several models; nothing where only one may be given.
    """
    return _together(
        click.option(
            "-m",
            "--model",
            "models" if several else "model",
            metavar="NAME",
            default=(default,) if several and default else default,
            multiple=several,
            shell_complete=_complete_model,
            help="A torchvision classifier; efficientnet_lite0, which needs no download; timm/NAME; or a TOML file. "
            "`advimg models` lists them."
            + (f" {several}" if several else "")
            + ("" if default else " By default what the PNG's record says."),
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
        click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps."),
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


def mask_option(help_: str) -> Decorator[Any]:
    """Add ``--mask``."""
    return click.option("--mask", metavar="FILE", type=click.Path(path_type=Path), help=help_)


def check_option() -> Decorator[Any]:
    """Add ``--check-on``."""
    return click.option(
        "--check-on",
        metavar="NAME",
        multiple=True,
        shell_complete=_complete_model,
        help="Tell what this model, which takes no part, sees in the file. May be given several times.",
    )


def attack_options() -> Decorator[Any]:
    """Add what :func:`settings_of` reads, and ``--precision``."""
    return _together(
        _norm_option(
            default=DEFAULTS.norm,
            help_="What eps bounds: each channel's change, or the length of the whole change, where 255 levels are 1.",
        ),
        click.option(
            "--confidence",
            type=float,
            show_default="0.9; 0.5 with --eps auto",
            help="Stop once the file shows the target with this confidence.",
        ),
        click.option(
            "--steps",
            type=int,
            show_default="100; 250 with --eps auto",
            help="The most steps from each start, at each eps.",
        ),
        click.option(
            "--step-size",
            type=float,
            show_default="half of eps; a fifth with --transfer",
            help="Length of a step, in the unit of eps.",
        ),
        click.option(
            "--momentum",
            default=DEFAULTS.momentum,
            help="Share of the last step's direction that stays; 0 is plain PGD.",
        ),
        click.option(
            "--loss",
            type=click.Choice(get_args(LossName)),
            default=DEFAULTS.loss,
            help="Cross-entropy, logit margin, or the target's logit alone.",
        ),
        click.option(
            "--restarts",
            default=DEFAULTS.restarts,
            help="Further starts at random points, for a photo that resists.",
        ),
        click.option(
            "--transfer", is_flag=True, help="Look at the picture in many ways, so that it may fool other models, too."
        ),
        click.option("--seed", default=DEFAULTS.seed, help="Seeds whatever is random."),
        click.option(
            "--precision", type=click.Choice(get_args(Precision)), default="auto", help="Of the gradients only."
        ),
    )


def settings_of(given: Mapping[str, Any]) -> Settings:
    """Return the settings that :func:`attack_options` and :func:`eps_options` have read.

    Raises:
        UsageError: one is out of range.
    """
    names = ("norm", "max_eps", "confidence", "steps", "step_size", "momentum", "loss", "restarts", "transfer", "seed")
    eps = given["eps"] or (_DEFAULT_L2 if given["norm"] == "l2" else DEFAULTS.eps)
    return Settings(eps=eps, **{name: given[name] for name in names})


def budgets_of(given: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the budgets that :func:`budgets_option` has read."""
    halves = 2 if given["norm"] == "l2" else 1
    return given["budgets"] or tuple(budget / halves for budget in _DEFAULT_BUDGETS)


def picture_options(*, figure: bool) -> Decorator[Any]:
    """Add what says which pictures are written: ``--perturbation``, ``--amplify``, ``--figure``, ``--metadata``."""
    return _together(
        click.option(
            "--perturbation/--no-perturbation", default=True, help="Write the perturbation's picture, amplified."
        ),
        click.option("--amplify", type=float, default=10, help="Its factor, above 0 and at most 255."),
        click.option("--figure/--no-figure", default=figure, help="Draw photo, perturbation and result side by side."),
        click.option("--metadata/--no-metadata", default=True, help="Store the record in the PNG's text chunk."),
    )


def photo_options() -> Decorator[Any]:
    """Add ``--max-pixels``."""
    return click.option(
        "--max-pixels",
        type=click.IntRange(min=1),
        default=MAX_PIXELS,
        help="Refuse photos with more pixels than this.",
    )


def stream_options() -> Decorator[Any]:
    """Add ``--json``, ``-q``, ``-v`` and ``--debug``."""
    return _together(
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
        click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
        click.option("-v", "--verbose", is_flag=True, help="Say more: device, precision, what the classifier sees."),
        click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),
    )


def _together(*decorators: Decorator[Any]) -> Decorator[Any]:
    def decorate(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate
