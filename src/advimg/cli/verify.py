"""``advimg verify``: hold a file against its original and a classifier."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from advimg.cli.command import Command, option
from advimg.cli.options import (
    mask_option,
    model_options,
    photo_options,
    setting_option,
    specs_of,
    stream_options,
    target_option,
)
from advimg.errors import ExitCode, UsageError
from advimg.labels import Labels
from advimg.record import Target, percent, read_chunk
from advimg.settings import DEFAULT_MODEL, Norm, parse_eps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advimg.cli.console import Console
    from advimg.verification import Verification

_RECORDED: dict[str, Any] = {"default": None, "show_default": "what the PNG's record says"}


@click.command(cls=Command, no_args_is_help=True, short_help="Check the promise on a file, whoever made it.")
@click.argument("adversarial", type=click.Path(path_type=Path), metavar="ADV")
@option(
    "--original",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PHOTO",
    group="Photos",
    help="The photo it was made from.",
)
@target_option(recorded=True)
@setting_option("norm", **_RECORDED)
@setting_option("eps", **_RECORDED, help="The most that may have changed, in levels of 255 (10 or 10/255).")
@mask_option("Check that nothing is changed where this picture is not white.")
@model_options(several="Given several times: the promise is for all.", default=None)
@photo_options
@stream_options
@click.pass_context
def command(ctx: click.Context, /, adversarial: Path, original: Path, **given: Any) -> None:
    """Check the promise on a file, whoever made it.

    ADV has the size of PHOTO, no colour channel of any pixel differs by more than eps levels, and reopened through the
    classifier's official preprocessing it is the target. What the options leave out is read from the PNG's own record.

    \b
    Examples:
      advimg verify dog_pelican.png --original dog.jpg
      advimg verify theirs.png --original dog.jpg -t pelican -e 8 -m resnet50:IMAGENET1K_V1

    \b
    Exit code: 0 the promise holds; 3 it does not; 1 a file cannot be read; 2 wrong usage.
    """
    from advimg.cli.console import Console
    from advimg.cli.one_photo import read_mask
    from advimg.images.decode import read_photo

    console = Console(quiet=given["quiet"], verbose=given["verbose"])
    picture = read_photo(adversarial, max_pixels=given["max_pixels"])
    photo = read_photo(original, max_pixels=given["max_pixels"])
    mask = read_mask(given["mask"], photo, max_pixels=given["max_pixels"])
    recorded = read_chunk(picture.chunk)
    norm: Norm = given["norm"] or ("l2" if recorded.get("norm") == "l2" and not given["eps"] else "linf")
    claims, eps = _claims(adversarial, recorded, given, norm)

    from advimg import api
    from advimg.models import Models

    specs = [(Models.of(spec), each.target) for each in claims for spec in specs_of(each.models, given | each.view)]
    claimed = [(models, _index(target, models.labels[0])) for models, target in specs]  # before a download
    if recorded.get("source_sha256") not in (None, photo.sha256):
        console.warn(f"{original} is not the file that the PNG's record names ({recorded.get('source')})")
    if mask is None and recorded.get("mask_sha256"):
        console.warn("the PNG's record names a mask; give --mask to check that nothing else is changed")
    elif mask is not None and recorded.get("mask_sha256") not in (None, mask.sha256):
        console.warn("this mask is not the one that the PNG's record names")
    found = []
    for models, target in claimed:
        (classifier,), _ = models.load(given["device"], progress=not given["quiet"])
        if recorded.get("model") == classifier.name and recorded.get("weights_sha256") not in (
            None,
            classifier.weights_sha256,
        ):
            console.warn("these weights are not those that the PNG's record names")
        found.append(api.verify(picture, photo, target, eps=eps, norm=norm, model=classifier, mask=mask))
    _print(found, photo.size, picture.size, console)
    if given["as_json"]:
        for each in found:
            click.echo(json.dumps(each.to_dict()))
    ctx.exit(ExitCode.OK if all(each.holds for each in found) else ExitCode.NOT_REACHED)


class _Claim(NamedTuple):
    """Models that are fooled, the options of their preprocessing if it is not the published one, and the target."""

    models: tuple[str, ...]
    view: dict[str, Any]
    target: str | Target


def _claims(
    adversarial: Path, recorded: dict[str, Any], given: dict[str, Any], norm: Norm
) -> tuple[list[_Claim], float]:
    """Return the models and eps: what the options say, else what the PNG's record says."""
    eps = parse_eps(given["eps"], norm) if given["eps"] else _recorded_eps(recorded, norm)
    target = given["target"] or _recorded_target(recorded)
    if target is None or eps is None:
        missing = [name for name, value in (("--target", target), ("--eps", eps)) if value is None]
        raise UsageError(f"{adversarial} holds no record of how it was made; give {' and '.join(missing)}")
    if given["models"]:
        return [_Claim(given["models"], {}, target)], eps
    claims = []
    for network in _recorded_networks(recorded):
        model = network.get("model")
        model = model if isinstance(model, str) else DEFAULT_MODEL
        its_target = given["target"] or _recorded_target(network) or target
        claims.append(_Claim((model,), _recorded_view(network, given), its_target))
    from_toml = claims[0].models[0].lower().endswith(".toml")  # which names its weights itself
    if recorded.get("weights") and not given["weights"] and not from_toml:
        raise UsageError(f"{adversarial} was made with the weights file {recorded['weights']}; give it with --weights")
    return claims, eps


def _recorded_eps(recorded: dict[str, Any], norm: Norm) -> float | None:
    """Return the recorded eps, if it is of this norm."""
    eps = recorded.get("eps")
    if not isinstance(eps, int | float) or recorded.get("norm", "linf") != norm:
        return None
    return parse_eps(eps, norm)


def _recorded_networks(recorded: dict[str, Any]) -> list[dict[str, Any]]:
    others = recorded.get("ensemble")
    return [recorded, *(each for each in (others if isinstance(others, list) else []) if isinstance(each, dict))]


def _recorded_target(network: dict[str, Any]) -> Target | None:
    try:
        return Target(int(network["target"]["index"]), str(network["target"].get("name", "")))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _recorded_view(network: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the options for the recorded preprocessing, where no options say otherwise."""
    try:
        view = {
            "input_size": int(network["view"]["crop"]),
            "resize": int(network["view"]["resize"]),
            "interpolation": str(network["view"]["interpolation"]),
            "mean": tuple(map(float, network["view"]["mean"])),
            "std": tuple(map(float, network["view"]["std"])),
        }
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: value for name, value in view.items() if given[name] is None}


def _index(target: str | Target, labels: Labels) -> int:
    """Return the index of a class; of a recorded one by its name, where a model has other classes."""
    if isinstance(target, str):
        return labels.find(target)
    return labels.counterpart(target.index, target.name) if target.name else target.index


def _print(
    found: "Sequence[Verification]", size: tuple[int, int], own_size: tuple[int, int], console: "Console"
) -> None:
    first = found[0]
    width, height = own_size
    sizes = f"{width}x{height}" if first.same_size else f"{width}x{height}, the photo has {size[0]}x{size[1]}"
    change = "cannot be compared" if first.linf is None else f"largest change {first.linf} levels"
    if first.norm == "l2" and first.l2 is not None:
        change = f"length of the change {first.l2:.3f} in L2"
    rows = [
        (first.same_size, "size", sizes),
        (first.within_eps, f"ε = {first.eps:g}", change),
    ]
    if first.mask_kept is not None:
        rows.append((first.mask_kept, "mask", "nothing else is changed" if first.mask_kept else "is crossed"))
    for each in found:
        seen = each.top5[0]
        by = f", by {each.model}" if len(found) > 1 else ""
        rows.append((seen.index == each.target.index, each.target.name, f"{seen.name} {percent(seen.confidence)}{by}"))
    console.say(f"{first.adversarial}, judged by {' and '.join(each.model for each in found)}", style="bold")
    for good, what, detail in rows:
        console.say(f"  {'ok ' if good else 'NO '} {what:<20} {detail}", style="" if good else "red")
    holds = all(each.holds for each in found)
    console.say("the promise holds" if holds else "the promise does not hold", style="bold")
    if console.verbose:
        names = [each.model if len(found) > 1 else "the file" for each in found]
        console.predictions(
            [(name, each.top5) for name, each in zip(names, found, strict=True)], target=first.target.index
        )
