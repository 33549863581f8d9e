"""The Python interface, which the command line calls, too: one photo, or many."""

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from advimg.batches.claims import FileVerification, FolderVerification
from advimg.batches.merge import Merged
from advimg.batches.merge import merge as merge_folders
from advimg.batches.options import Options
from advimg.batches.pairs import read_targets, words_of
from advimg.batches.photos import find_photos
from advimg.batches.plan import Files, each_target
from advimg.batches.run import opened
from advimg.batches.shards import Shard, Share
from advimg.batches.stats import BatchStats
from advimg.batches.true_labels import read_true_labels
from advimg.batches.verify_folder import FolderCheck
from advimg.changes import cases_of, parse_changes
from advimg.classifiers.classifier import Classifier, Verdict
from advimg.classifiers.ensemble import Ensemble
from advimg.classifiers.program import Program
from advimg.engine.capacity import BatchSize
from advimg.engine.engine import Engine
from advimg.engine.job import Job
from advimg.engine.program_verdicts import ProgramVerdicts
from advimg.engine.step_report import Watcher
from advimg.errors import UsageError
from advimg.images.decode import decode_photo, photo_from_pixels, read_photo
from advimg.images.mask import Mask, mask_for
from advimg.images.perturbation import Amplify
from advimg.images.photo import Photo
from advimg.models import Judge, Model, Models
from advimg.outcome import Outcome, judge_result, outcome_of
from advimg.settings import DEFAULT_MODEL, MAX_PIXELS, Norm, Precision, Settings, parse_eps
from advimg.storage.url import Place, place
from advimg.tracing import Tracer
from advimg.transforms.base import check_size
from advimg.verification import Verification, check_promise

Picture = str | Place | bytes | Image.Image | npt.NDArray[Any] | Photo
"""A photo as callers have it: a path or a URL, a file's bytes, a PIL image, or levels [height, width, 3], uint8."""


def attack(
    photo: Picture,
    target: str | int,
    *,
    model: Model | Sequence[Model] = DEFAULT_MODEL,
    check_on: Judge | Sequence[Judge] = (),
    mask: Picture | Mask | None = None,
    settings: Settings | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    watch: Watcher | None = None,
    tracer: Tracer | None = None,
    **changes: Any,
) -> Outcome:
    """Turn a photo into a picture that the classifier, or each of several, takes for the target.

    Args:
        photo: what to attack.
        target: the class's name or index; or "random", "least-likely", "runner-up", "untargeted". A word that is new to
            a model that sees words typed by hand joins its words.
        model: a name as for :func:`advimg.load_classifier`, or a classifier; several are fooled by one picture.
        check_on: classifiers that take no part, and programs (``"exec:./predict"``), which are given a PNG of the
            result; the record holds what they see, or why a program gave no answer.
        mask: where the photo may be changed: a picture of its size, white where it may.
        settings: of the attack; the defaults if None.
        precision: what gradients are computed in: "auto", "fp32" or "bf16".
        device: where to load a model given by name.
        watch: called at each step with a report of where the attack stands.
        tracer: keeps each step, for an animation.
        **changes: single settings, such as ``eps=4``, ``confidence=0.99``; see :class:`advimg.Settings`.

    Returns:
        The outcome; ``outcome.record.fooled`` tells whether the target was reached, ``outcome.save()`` writes the PNG.

    Raises:
        AdvimgError: the photo cannot be read, the target is unknown, the model cannot be loaded, or the mask leaves
            nothing of what a model sees.
    """
    settings = (settings or Settings()).changed(**changes)
    models = Models.of(model, check_on).joined_by([target])
    criterion = models.read_target(target)
    photo = open_photo(photo)
    free = _mask(mask, photo)
    attacked, check_on = models.load(device)
    for classifier in attacked if free is not None else ():
        rows, columns = classifier.preprocessing.resize_crop(*photo.size).window
        if free is not None and not free.free[rows, columns].any():
            raise UsageError(f"the mask is white only where {classifier.name} does not look: outside of its crop")
    engine = Engine(*attacked, precision=precision)
    job = Job(photo=photo, target=criterion, settings=settings, mask=free)
    result = engine.attack(job, watch=tracer.beside(watch) if tracer else watch)
    if tracer:
        tracer.end(result)
    networks = [each for each in check_on if isinstance(each, Classifier)]
    checked = judge_result(result, Ensemble(networks)) if networks else ()
    answers = ProgramVerdicts(each for each in check_on if isinstance(each, Program)).judge(result)
    return outcome_of(result, checked=checked, answers=answers, choices=engine.choices)


def batch(
    photos: str | Place | Sequence[str | Place],
    targets: str | int | Sequence[str | int],
    *,
    out_dir: str | Place,
    model: Model | Sequence[Model] = DEFAULT_MODEL,
    check_on: Judge | Sequence[Judge] = (),
    settings: Settings | None = None,
    precision: Precision = "auto",
    batch_size: BatchSize = "auto",
    device: str | Sequence[str] = "auto",
    on: str | None = None,
    perturbation: bool = True,
    figure: bool = False,
    amplify: Amplify = "auto",
    metadata: bool = True,
    recursive: bool = False,
    force: bool = False,
    retry_failed: bool = False,
    max_pixels: int = MAX_PIXELS,
    worst_case: Sequence[str] = (),
    pack: int | None = None,
    true_labels: str | Place | None = None,
    shard: str | None = None,
    ended: Callable[[dict[str, Any]], None] | None = None,
    stop: threading.Event | None = None,
    **changes: Any,
) -> BatchStats:
    """Attack many photos into one folder, with a journal there; called again, it goes on where it was stopped.

    Args:
        photos: a file, a folder or a tar archive, or several; paths, or URLs such as ``s3://bucket/photos``.
        targets: as for :func:`attack`, or "all"; each photo is attacked once for each of them.
        out_dir: the folder for the files and the journal, made if it is not there; or a URL.
        model: as for :func:`attack`.
        check_on: as for :func:`attack`.
        settings: of all attacks; the defaults if None.
        precision: what gradients are computed in: "auto", "fp32" or "bf16".
        batch_size: how many pictures share a pass: each photo, and what each change that it is to survive makes of it;
            "auto" decides by the device and its memory.
        device: one, or several, each with a process of its own, an actor of Ray; then models are given by name.
        on: the Ray cluster whose actors make the attacks: "ray" for one on this machine, or the one that
            ``RAY_ADDRESS`` names; "ray://HOST:10001" or "ray:HOST:PORT" for one that runs already. Each GPU has an
            actor, unless ``device`` names others. Models are given by name.
        perturbation: whether a picture of each perturbation is written.
        figure: whether a figure of each attack is drawn.
        amplify: the factor of the perturbation's picture; "auto" lets the largest change span the range.
        metadata: whether PNGs hold their record.
        recursive: whether to look into the folders of folders, and into archives there.
        force: whether to overwrite files that are there, and results of other settings.
        retry_failed: whether to try again what failed in an earlier call.
        max_pixels: the most pixels a photo may have.
        worst_case: the names of attacks that are made on each photo in turn, until one reaches the target, such as
            ``("pgd", "apgd")``; the record's ``attack`` says which it was.
        pack: how many attacks share a tar archive that webdataset reads, ``results-00000.tar`` and so on; None gives
            each attack files of its own.
        true_labels: "folders", if the folder of each photo is named after its true class, or the path of a CSV table
            with the header ``photo,label``; then the counts have the ``accuracies`` of each model.
        shard: which share of the photos this call attacks, such as ``"3/16"``, where several machines share them; in a
            folder of its own below ``out_dir``. :func:`merge` brings them together.
        ended: called with the record of each attack as it ends, in any thread, one at a time.
        stop: once it is set, what is complete is written and the rest is left for another call.
        **changes: single settings, as for :func:`attack`.

    Returns:
        The counts: ``total``, ``verified``, ``not_reached``, ``failures``.

    Raises:
        AdvimgError: a target is unknown, a model cannot be loaded, the folder has results of other settings, the disk
            is full. A photo that fails raises nothing; it is counted.
    """
    settings = (settings or Settings()).changed(**changes)
    part = None if shard is None else Shard.parse(shard)
    folder = place(out_dir)
    found = find_photos([photos] if isinstance(photos, str | Place) else photos, out_dir=folder, recursive=recursive)
    texts = [targets] if isinstance(targets, str | int) else targets
    models = Models.of(model, check_on).joined_by(words_of(texts))
    criteria = read_targets(tuple(map(str, texts)), models.labels[0], models.other_labels)
    if not criteria:
        raise UsageError("there is no target; give at least one")
    folder = folder if part is None else folder / part.folder_name
    files = Files(folder=folder, root=found.root, amplify=amplify, perturbation=perturbation, figure=figure)
    options = Options(
        settings=settings,
        precision=precision,
        batch_size=batch_size,
        metadata=metadata,
        max_pixels=max_pixels,
        force=force,
        retry_failed=retry_failed,
        worst_case=tuple(worst_case),
        pack=pack,
    )
    keys = each_target(found.photos, criteria, settings.eps)
    devices = [device] if isinstance(device, str) else device
    known = (
        {}
        if true_labels is None
        else read_true_labels(true_labels, found.photos, models.labels[0], models.other_labels)
    )
    share = None if part is None else Share.of(part, keys, root=found.root)
    if share:
        keys = share.keys
        if not keys:
            share.write_empty(folder)
            return BatchStats(0)
    with opened(keys, files, models, options, true_labels=known, devices=devices, on=on, warn=warnings.warn) as run:
        if share:
            share.write(folder)
        run.run(stop=stop or threading.Event(), ended=ended or (lambda _: None))
    return run.stats


def merge(
    *folders: str | Place, out_dir: str | Place | None = None, check: bool = False, force: bool = False
) -> Merged:
    """Bring the results of several calls of :func:`batch` together: one journal, table and summary.

    Files stay where they are. The folders are only read, so calls may be running there; called again, what has come
    since is there, too. :func:`batch` into the merged folder makes what is missing.

    Args:
        *folders: one that holds the folders of shards, or several folders that :func:`batch` wrote to.
        out_dir: for what is written; it holds all of them. By default the deepest folder that does.
        check: whether every PNG is held against its recorded hash, and not only looked for.
        force: whether a summary and a table that are of something else are overwritten.

    Returns:
        The counts: ``merged.stats``, ``missing``, ``double``, ``gone``.

    Raises:
        AdvimgError: a folder holds no results or has other settings, or the merged folder cannot be written.
    """
    return merge_folders(folders, out_dir=out_dir, check=check, force=force)


def classify(photo: Picture, *, model: Model = DEFAULT_MODEL, device: str = "auto") -> Verdict:
    """Say what a classifier sees in a photo; ``verdict.top(5)`` lists it.

    Raises:
        AdvimgError: the photo cannot be read, or the model cannot be loaded.
    """
    photo = open_photo(photo)
    (classifier,), _ = _one(model).load(device)
    return classifier.judge_photo(photo)


def verify(
    adversarial: Picture,
    original: Picture,
    target: str | int,
    *,
    eps: float | str,
    norm: Norm = "linf",
    model: Model = DEFAULT_MODEL,
    device: str = "auto",
    mask: Picture | Mask | None = None,
    after: str | Sequence[str] = (),
) -> Verification:
    """Check the promise on a file, whoever made it: same size, within ε levels, taken for the target.

    The judge is ``model`` with its own preprocessing, whatever the file's record says; a record that names the model
    with another one does not hold, and neither does a file with another transparency or colour profile. Untargeted
    files have to leave the class that ``model`` sees in the original, and need not be one other class after each
    change; where their record names the class that was reached, it has to be the one that is seen.

    Args:
        adversarial: the file to check.
        original: the photo it was made from.
        target: the class's name or index; or "untargeted".
        eps: the most that may have changed, as for :func:`attack`.
        norm: what eps bounds.
        model: a name as for :func:`advimg.load_classifier`, or a classifier.
        device: where to load a model given by name.
        mask: where the photo may have been changed, as for :func:`attack`.
        after: changes after which that has to hold, too, as the setting ``survive`` has them.

    Raises:
        AdvimgError: a picture cannot be read, a change or the target is unknown, or the model cannot be loaded.
    """
    picture, photo = open_photo(adversarial), open_photo(original)
    models, norm = _one(model).joined_by([target]), Settings(norm=norm).norm
    wanted = None if target == "untargeted" else models.labels[0].find(target)
    eps, free = parse_eps(eps, norm), _mask(mask, photo)
    cases = cases_of(parse_changes(after)) if after else ()
    for case in cases:  # before a download
        check_size(case, *picture.size, source=picture.source)
    (classifier,), _ = models.load(device)
    return check_promise(
        picture,
        photo,
        wanted,
        ensemble=Ensemble([classifier]),
        eps=eps,
        norm=norm,
        mask=free,
        cases=cases,
        bare=isinstance(adversarial, np.ndarray),
    )


def verify_folder(
    folder: str | Place,
    *,
    model: Model | Sequence[Model] = (),
    device: str = "auto",
    mask: Picture | None = None,
    after: str | Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    ended: Callable[[FileVerification], None] | None = None,
) -> FolderVerification:
    """Check the promise, and what the journal says, of each file that :func:`batch` wrote to a folder.

    Each file is reopened from its bytes, compared with the photo, and judged by the networks that its record names,
    with their own preprocessing, as :func:`verify` does. Its record has to tell the truth: a file that is said to reach
    its target and does not is a ``false_claim``. Each network is loaded once.

    Args:
        folder: that has a journal, or folders with journals; or a URL.
        model: for those that records name and that are not loaded for a record alone, which are all but published
            weights that are on disk; each is used for the records that name it.
        device: where to load networks.
        mask: where the photos might be changed, if a mask said so.
        after: changes after which that has to hold, too, instead of those that the records name; "" is none.
        max_pixels: the most pixels that a picture may have.
        ended: called with what is found of each attack.

    Returns:
        What is found of each attack; ``found.holds`` tells whether the promise holds for all.

    Raises:
        AdvimgError: there is no journal, it cannot be read, no record names one of the models, or one cannot be loaded.
    """
    models = Models.of(model).attacked if model else ()
    check = FolderCheck(
        place(folder),
        models,
        device=device,
        mask=None if mask is None else open_photo(mask),
        after=None if after is None else parse_changes(after) if after else (),
        max_pixels=max_pixels,
    )
    files: list[FileVerification] = []
    for each in check:
        files.append(each)
        if ended is not None:
            ended(each)
    return FolderVerification(tuple(files), tuple(check.unread))


def open_photo(photo: Picture) -> Photo:
    """Decode a photo as callers have it.

    Raises:
        PhotoError: it cannot be read.
    """
    if isinstance(photo, Photo):
        return photo
    if isinstance(photo, bytes):
        return decode_photo(photo, source="bytes")
    if isinstance(photo, str | Place):
        return read_photo(photo)
    return photo_from_pixels(photo)


def _mask(mask: Picture | Mask | None, photo: Photo) -> Mask | None:
    return mask if mask is None or isinstance(mask, Mask) else mask_for(photo, open_photo(mask))


def _one(model: Model) -> Models:
    models = Models.of(model)
    if len(models.attacked) > 1:
        raise UsageError("give one model; call again for each other")
    return models
