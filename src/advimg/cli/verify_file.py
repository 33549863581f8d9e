"""``advimg verify`` of one file: what it holds is compared with its original and shown to classifiers."""

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from advimg.cli.options import specs_of
from advimg.errors import ExitCode, RecordError, UsageError
from advimg.formatting import percent
from advimg.labels import Labels
from advimg.settings import Norm, TargetRule, parse_eps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advimg.classifiers.spec import ModelSpec
    from advimg.cli.console import Console
    from advimg.models import Models
    from advimg.record import Record, Target, View
    from advimg.storage.url import Place
    from advimg.verification import Verification


def verify_file(adversarial: "Place", original: "Place", given: dict[str, Any], console: "Console") -> ExitCode:
    """Check the promise on a file, and say what was found.

    Args:
        adversarial: the file.
        original: the photo it was made from.
        given: the options of the command.
        console: to print on.

    Raises:
        AdvimgError: a picture cannot be read, what is to be reached is unknown, or a model cannot be loaded.
    """
    from advimg.cli.one_photo import read_mask
    from advimg.images.decode import read_photo

    picture = read_photo(adversarial, max_pixels=given["max_pixels"])
    photo = read_photo(original, max_pixels=given["max_pixels"])
    mask = read_mask(given["mask"], photo, max_pixels=given["max_pixels"])
    recorded, unreadable = _recorded(picture.chunk)
    norm: Norm = given["norm"] or ("l2" if recorded and recorded.norm == "l2" and given["eps"] is None else "linf")
    claims, eps = _claims(adversarial, recorded, given, norm, unreadable)
    after = _changes(adversarial, recorded, given["after"])
    if unreadable:
        console.warn(f"the PNG's record is not one that advimg wrote ({unreadable})")
    for note in picture.notes:
        console.warn(note)

    from advimg import api

    specs = [(_models(spec, each), each.target) for each in claims for spec in specs_of(each.models, given)]
    claimed = [(models, _index(target, models.labels[0])) for models, target in specs]  # before a download
    if recorded and recorded.source_sha256 != photo.sha256:
        console.warn(f"{original} is not the file that the PNG's record names ({recorded.source})")
    if recorded and mask is None and recorded.mask_sha256:
        console.warn("the PNG's record names a mask; give --mask to check that nothing else is changed")
    elif recorded and mask is not None and recorded.mask_sha256 not in (None, mask.sha256):
        console.warn("this mask is not the one that the PNG's record names")
    weights = {each.model: each.weights_sha256 for each in recorded.attacked} if recorded else {}
    found = []
    for models, target in claimed:
        (classifier,), _ = models.load(given["device"], progress=not given["quiet"])
        if weights.get(classifier.name) not in (None, classifier.weights_sha256):
            console.warn("these weights are not those that the PNG's record names")
        found.append(api.verify(picture, photo, target, eps=eps, norm=norm, model=classifier, mask=mask, after=after))
    _print(found, photo.size, picture.size, console)
    if given["as_json"]:
        for each in found:
            click.echo(json.dumps(each.to_dict()))
    return ExitCode.OK if all(each.holds for each in found) else ExitCode.NOT_REACHED


class _Claim(NamedTuple):
    """Models that are fooled, the target, and what the record says of how they see."""

    models: tuple[str, ...]
    target: "str | Target"
    view: "View | None"


def _recorded(chunk: str | None) -> "tuple[Record | None, str]":
    """Return the PNG's record; without one, why what is in its place is none, or nothing."""
    from advimg.record_schema import read_chunk

    try:
        return read_chunk(chunk), ""
    except RecordError as error:
        return None, str(error)


def _claims(
    adversarial: "Place", recorded: "Record | None", given: dict[str, Any], norm: Norm, unreadable: str
) -> tuple[list[_Claim], float]:
    """Return the models and eps: what the options say, else what the PNG's record says."""
    eps = given["eps"]
    if eps is None and recorded and recorded.norm == norm:
        eps = recorded.eps
    target = given["target"]
    if target is None and recorded:
        target = "untargeted" if recorded.target_rule == "untargeted" else recorded.target
    known = {"--target": target, "--eps": eps, "--model": given["models"] or recorded}
    missing = [name for name, value in known.items() if value is None or value == ()]
    if target is None or missing:
        what = f"a record that is not one ({unreadable})" if unreadable else "no record of how it was made"
        raise UsageError(f"{adversarial} holds {what}; give {' and '.join(missing)}")
    eps = parse_eps(eps, norm)
    if given["models"] or recorded is None:
        own = [each.view for each in recorded.attacked if "words" in each.view] if recorded else []
        return [_Claim(given["models"], target, next(iter(own), None))], eps
    from advimg.recorded_models import check_once, check_published

    check_once(recorded.attacked, called=str(adversarial))
    for each in recorded.attacked:
        check_published(each, called=str(adversarial), own_weights=given["weights"] is not None)
    return [
        _Claim((each.model,), target if isinstance(target, str) else each.target, each.view)
        for each in recorded.attacked
    ], eps


def _changes(adversarial: "Place", recorded: "Record | None", given: str | None) -> tuple[str, ...]:
    """Return the changes that the option names, else those of the PNG's record.

    Raises:
        UsageError: they cannot be read.
    """
    from advimg.changes import parse_changes

    text = given if given is not None else recorded.survive if recorded else None
    if not text:
        return ()
    try:
        return tuple(map(str, parse_changes(text)))
    except UsageError as error:
        if given is not None:
            raise
        raise UsageError(
            f"{adversarial}: its record names changes that cannot be read ({error}); give --after"
        ) from None


def _models(spec: "ModelSpec", claim: _Claim) -> "Models":
    """Return a model of a claim; one that sees words typed by hand with those of the record, if no option names any."""
    from advimg.models import Models
    from advimg.recorded_models import with_words

    return Models.of(with_words(spec, claim.view)).joined_by([claim.target] if isinstance(claim.target, str) else [])


def _index(target: "str | Target", labels: Labels) -> "int | TargetRule":
    """Return the index of a class; of a recorded one by its name, where a model has other classes."""
    if target == "untargeted":
        return target
    if isinstance(target, str):
        return labels.find(target)
    from advimg.recorded_models import class_of

    return class_of(target, labels)


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
    for what, kept in (("transparency", first.alpha_kept), ("colour profile", first.profile_kept)):
        if not kept:
            rows.append((False, what, "is not the photo's"))
    for each in found:
        if each.record_differs:
            rows.append((False, "record", f"{each.model}: {'; '.join(each.record_differs)}"))
        seen = each.top5[0]
        by = f", by {each.model}" if len(found) > 1 else ""
        wanted = each.target.name if each.left is None else f"not {each.left.name}"
        rows.append((seen.index == each.target.index, wanted, f"{seen.name} {percent(seen.confidence)}{by}"))
        for survival in each.survives:
            told = f"{survival.seen.name} {percent(survival.seen.confidence)}{by}"
            rows.append((survival.fooled, f"after {survival.change}", told))
    console.say(f"{first.adversarial}, judged by {' and '.join(each.model for each in found)}", style="bold")
    wide = max(20, *(len(what) for _, what, _ in rows))
    for good, what, detail in rows:
        console.say(f"  {'ok ' if good else 'NO '} {what:<{wide}} {detail}", style="" if good else "red")
    holds = all(each.holds for each in found)
    console.say("the promise holds" if holds else "the promise does not hold", style="bold")
    if console.verbose:
        names = [each.model if len(found) > 1 else "the file" for each in found]
        console.predictions([(name, each.top5) for name, each in zip(names, found, strict=True)], target=first.target)
