"""``advimg verify``: hold a file against its original and a classifier."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from advimg.cli.help_groups import GroupedCommand
from advimg.cli.inputs import read_mask
from advimg.cli.options.eps import recorded_eps_options
from advimg.cli.options.models import model_options, specs_of
from advimg.cli.options.pictures import mask_option, photo_options
from advimg.cli.options.streams import stream_options
from advimg.cli.options.target import target_option
from advimg.errors import UsageError
from advimg.labels import Labels
from advimg.record import Target, percent, read_chunk
from advimg.settings import DEFAULT_MODEL, Norm, checked_eps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advimg.cli.console import Console
    from advimg.verification import Verification

BROKEN = 3
"""The exit code when the promise does not hold."""


@click.command(cls=GroupedCommand, no_args_is_help=True, short_help="Check the promise on a file, whoever made it.")
@click.argument("adversarial", type=click.Path(path_type=Path), metavar="ADV")
@click.option(
    "--original", type=click.Path(path_type=Path), required=True, metavar="PHOTO", help="The photo it was made from."
)
@target_option(recorded=True)
@recorded_eps_options()
@mask_option("Check that nothing is changed where this picture is not white.")
@model_options(several="Given several times: the promise is for all.", default=None)
@photo_options()
@stream_options()
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
    from advimg.images.decode import read_photo

    console = Console(quiet=given["quiet"], verbose=given["verbose"])
    picture = read_photo(adversarial, max_pixels=given["max_pixels"])
    photo = read_photo(original, max_pixels=given["max_pixels"])
    mask = read_mask(given["mask"], photo, max_pixels=given["max_pixels"])
    told = read_chunk(picture.chunk)
    norm: Norm = given["norm"] or ("l2" if told.get("norm") == "l2" and not given["eps"] else "linf")
    asked, eps = _asked(adversarial, told, given, norm)

    from advimg.classifiers.load import labels_of, load_classifier
    from advimg.verification import verify_photo

    specs = [(spec, each.target) for each in asked for spec in specs_of(each.models, given | each.view)]
    aims = [(spec, _index(target, labels_of(spec))) for spec, target in specs]  # before a download
    if told.get("source_sha256") not in (None, photo.sha256):
        console.warn(f"{original} is not the file that the PNG's record names ({told.get('source')})")
    if mask is None and told.get("mask_sha256"):
        console.warn("the PNG's record names a mask; give --mask to check that nothing else is changed")
    elif mask is not None and told.get("mask_sha256") not in (None, mask.sha256):
        console.warn("this mask is not the one that the PNG's record names")
    found = []
    for spec, target in aims:
        classifier = load_classifier(spec, device=given["device"], progress=not given["quiet"])
        if told.get("model") == classifier.name and told.get("weights_sha256") not in (None, classifier.weights_sha256):
            console.warn("these weights are not those that the PNG's record names")
        found.append(verify_photo(picture, photo, classifier=classifier, target=target, eps=eps, norm=norm, mask=mask))
    _tell(found, photo.size, picture.size, console)
    if given["as_json"]:
        for each in found:
            click.echo(json.dumps(each.to_dict()))
    ctx.exit(0 if all(each.holds for each in found) else BROKEN)


class _Asked(NamedTuple):
    """Models that shall be fooled, how they look at a picture if not as published, and what they shall see."""

    models: tuple[str, ...]
    view: dict[str, Any]
    target: str | Target


def _asked(adversarial: Path, told: dict[str, Any], given: dict[str, Any], norm: Norm) -> tuple[list[_Asked], float]:
    """Return the models and eps: what the options say, else what the PNG's record says."""
    eps = given["eps"] or _told_eps(told, norm)
    target = given["target"] or _told_target(told)
    if target is None or eps is None:
        missing = [name for name, value in (("--target", target), ("--eps", eps)) if value is None]
        raise UsageError(f"{adversarial} holds no record of how it was made; give {' and '.join(missing)}")
    if given["models"]:
        return [_Asked(given["models"], {}, target)], eps
    asked = [
        _Asked((_told_model(network),), _told_view(network, given), given["target"] or _told_target(network) or target)
        for network in (told, *_told_others(told))
    ]
    from_toml = asked[0].models[0].lower().endswith(".toml")  # which names its weights itself
    if told.get("weights") and not given["weights"] and not from_toml:
        raise UsageError(f"{adversarial} was made with the weights file {told['weights']}; give it with --weights")
    return asked, eps


def _told_eps(told: dict[str, Any], norm: Norm) -> float | None:
    """Return the recorded eps, if it is of this norm."""
    eps = told.get("eps")
    if not isinstance(eps, int | float) or told.get("norm", "linf") != norm:
        return None
    return checked_eps(eps, norm)


def _told_others(told: dict[str, Any]) -> list[dict[str, Any]]:
    others = told.get("ensemble")
    return [each for each in others if isinstance(each, dict)] if isinstance(others, list) else []


def _told_model(told: dict[str, Any]) -> str:
    model = told.get("model")
    return model if isinstance(model, str) else DEFAULT_MODEL


def _told_target(told: dict[str, Any]) -> Target | None:
    try:
        return Target(int(told["target"]["index"]), str(told["target"].get("name", "")))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _told_view(told: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that mean the view of the record, where no options say otherwise."""
    try:
        view = {
            "input_size": int(told["view"]["crop"]),
            "resize": int(told["view"]["resize"]),
            "interpolation": str(told["view"]["interpolation"]),
            "mean": tuple(map(float, told["view"]["mean"])),
            "std": tuple(map(float, told["view"]["std"])),
        }
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: value for name, value in view.items() if given[name] is None}


def _index(target: str | Target, labels: Labels) -> int:
    """Return the index of a class; of a recorded one by its name, where a model has other classes."""
    if isinstance(target, str):
        return labels.find(target)
    return labels.counterpart(target.index, target.name) if target.name else target.index


def _tell(
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
