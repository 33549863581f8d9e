"""How visible the change is, by measures that no attack here knows of.

Every photo is attacked towards random classes on the bundled network, the PNG is written, opened again from the disk
and judged by code that is not advimg's (tests/referee.py). It is compared with the photo over the bounding box of the
pixels that changed: SSIMULACRA2 (100: no difference; 90: hardly any, even where one is flipped to the other in place),
the mean colour difference CIEDE2000, SSIM with the Gaussian window of its paper, and PSNR.

Beside it, in the same run: DDN and PerC-AL from the literature (visibility_peers.py), through the same preprocessing on
the photo at its own size, to a PNG; and other libraries' PGD on the cropped 224x224 tensor, which is judged as the
tensor that they hand back and compared, rounded, with the tensor that was not attacked.

    python -m tests.benchmarks visibility --photos FOLDER
    python -m tests.benchmarks visibility --photos FOLDER --targets 1 --frontier FILE.png
"""

import importlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from advimg.classifiers.classifier import Classifier
from advimg.classifiers.load import load_classifier
from advimg.engine.engine import Engine
from advimg.engine.job import Failed, Job, Result
from advimg.images.decode import read_photo
from advimg.images.photo import Levels
from advimg.outcome import outcome_of
from advimg.settings import Settings
from tests.benchmarks.measure import print_machine, print_table, progress
from tests.benchmarks.peers import Peer, find_peers, seeded
from tests.benchmarks.photos import device_option, find_photos, photos_option
from tests.benchmarks.strength import Targets, random_targets
from tests.benchmarks.visibility_peers import Finder, ddn, perc_al
from tests.referee import CROP, Judge, open_upright

_REFINES = (0, 4, 8, 12, 16, 20, 24, 28, 40, 60)
_CONFIDENCES = (0.5, 0.9, 0.99)
_OURS: Mapping[str, Settings] = {
    "default": Settings(),
    **{f"refine {steps}": Settings(refine=steps) for steps in _REFINES if steps != Settings().refine_steps},
    "confidence 0.5": Settings(confidence=0.5),
    "confidence 0.5, refine 60": Settings(confidence=0.5, refine=60),
    "confidence 0.99": Settings(confidence=0.99),
    "eps 4": Settings(eps=4),
    "eps 2": Settings(eps=2),
    "eps auto": Settings(eps="auto"),
    "eps auto, refine 0": Settings(eps="auto", refine=0),
}
_FINDERS: Mapping[str, Finder] = {"DDN": ddn, "PerC-AL": perc_al}
_FINDER_STEPS = 100
_PEERS = ("foolbox", "torchattacks")
_EPS = 10  # that other libraries are held to, as advimg is by default


@dataclass(frozen=True)
class Seen:
    """How much a change shows.

    Attributes:
        ssimulacra2: 100 where nothing differs.
        ciede2000: the mean colour difference.
        ssim: 1 where nothing differs.
        psnr: in decibels.
    """

    ssimulacra2: float
    ciede2000: float
    ssim: float
    psnr: float


@dataclass
class Tally:
    """What came of the files of a row.

    Attributes:
        asked: in words, the confidence asked for.
        kept: whether each file is the target with that confidence, and within eps where there is one.
        largest: the largest change of a channel in each file.
    """

    asked: str
    kept: list[bool] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    largest: list[int] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ssimulacra2(self) -> list[float]:
        """That of each file."""
        return [each.ssimulacra2 for each in self.seen]

    def row(self, name: str) -> tuple[str, ...]:
        return (
            name,
            self.asked,
            f"{sum(self.kept)}/{len(self.kept)}",
            f"{median(self.ssimulacra2):.1f}",
            f"{min(self.ssimulacra2):.1f}",
            f"{mean(each.ciede2000 for each in self.seen):.2f}",
            f"{mean(each.ssim for each in self.seen):.4f}",
            f"{mean(each.psnr for each in self.seen):.1f}",
            f"{mean(self.largest):.1f}",
            f"{mean(self.passes):.1f}",
            f"{self.seconds / len(self.kept):.2f}",
        )


class Eye:
    """The measures.

    Raises:
        ClickException: a package is missing.
    """

    def __init__(self) -> None:
        self._compare = _imported("ssimulacra2").compute_ssimulacra2
        self._color = _imported("skimage.color")
        self._metrics = _imported("skimage.metrics")

    def compare(self, photo: Levels, picture: Levels) -> Seen:
        """Compare a picture with its photo, [h, w, 3], uint8, over the bounding box of the pixels that differ."""
        box = _bounding_box(photo != picture)
        before, after = photo[box], picture[box]
        lab, changed_lab = self._color.rgb2lab(before), self._color.rgb2lab(after)
        return Seen(
            self._ssimulacra2(before, after),
            float(self._color.deltaE_ciede2000(lab, changed_lab).mean()),
            float(
                self._metrics.structural_similarity(
                    before, after, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
                )
            ),
            float(self._metrics.peak_signal_noise_ratio(before, after)),
        )

    def _ssimulacra2(self, before: Levels, after: Levels) -> float:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in ("before.png", "after.png")]
            for file, levels in zip(files, (before, after), strict=True):
                Image.fromarray(levels).save(file, compress_level=0)
            return float(self._compare(*map(str, files)))


@dataclass(frozen=True)
class Bench:
    """What all rows share."""

    targets: Targets
    judge: Judge
    eye: Eye
    engine: Engine
    classifier: Classifier

    def attacked(self, settings: Settings) -> Iterator[tuple[Result, float]]:
        """Attack every photo towards its targets; yield each result, with the seconds since the one before it."""
        jobs = (
            Job(photo=photo, target=index, settings=settings)
            for path, indices in self.targets.items()
            for photo in [read_photo(path)]
            for index in indices
        )
        ends = self.engine.run(jobs)
        while True:
            began = time.perf_counter()
            end = next(ends, None)
            if end is None:
                return
            seconds = time.perf_counter() - began
            if isinstance(end, Failed):
                raise end.error
            yield end, seconds


@click.command()
@photos_option
@device_option
@click.option("--targets", default=4, show_default=True, type=click.IntRange(1, 100), help="Random targets a photo.")
@click.option("--seed", default=0, show_default=True, help="Of the targets.")
@click.option("--slots", default=8, show_default=True, type=click.IntRange(1), help="Photos that share a pass.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([*_OURS, *_FINDERS, *_PEERS]),
    help="A row; all of them if not given.",
)
@click.option("--peers/--no-peers", default=True, help="Whether to compare other attacks and libraries.")
@click.option(
    "--frontier",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Measure how visibility follows from passes and from confidence instead, and draw it into this PNG.",
)
def benchmark(
    photos: Path | None,
    device: str,
    targets: int,
    seed: int,
    slots: int,
    only: Sequence[str],
    peers: bool,
    frontier: Path | None,
) -> None:
    """Measure how visible the change is."""
    print_machine()
    judge, eye = Judge(), Eye()
    classifier = load_classifier("efficientnet_lite0", device=device)
    bench = Bench(
        targets={path: random_targets(path, judge, targets, seed) for path in find_photos(photos)},
        judge=judge,
        eye=eye,
        engine=Engine(classifier, precision="fp32", batch_size=slots),
        classifier=classifier,
    )
    rows = _rows(bench, only, peers=peers) if frontier is None else _frontier_rows(bench)
    tallies: dict[str, Tally] = {}
    for name, measure in rows.items():
        progress(f"{name} ...")
        tallies[name] = measure()
        progress("  ".join(tallies[name].row("")))
    _print(bench, tallies)
    if frontier is not None:
        _draw(tallies, frontier)


def _rows(bench: Bench, only: Sequence[str], *, peers: bool) -> dict[str, Callable[[], Tally]]:
    """Return the rows of the table, each with what measures it."""
    rows: dict[str, Callable[[], Tally]] = {
        name: partial(_ours, bench, settings) for name, settings in _OURS.items() if not only or name in only
    }
    if not peers:
        return rows
    for name, finder in _FINDERS.items():
        if not only or name in only:
            rows[f"{name}, {_FINDER_STEPS} steps"] = partial(_found, bench, finder)
    if not only or set(only) & set(_PEERS):
        for peer in find_peers():
            if peer.package in (only or _PEERS):
                rows[f"{peer.package} PGD, {peer.steps} steps, tensors"] = partial(_tensors, bench, peer)
    return rows


def _frontier_rows(bench: Bench) -> dict[str, Callable[[], Tally]]:
    """Return those of the plot: each count of steps at the default confidence, each confidence refined or not."""
    settings = {_point(steps, 0.9): Settings(refine=steps) for steps in _REFINES}
    for confidence in _CONFIDENCES:
        for steps in (0, Settings().refine_steps):
            settings[_point(steps, confidence)] = Settings(refine=steps, confidence=confidence)
    return {name: partial(_ours, bench, each) for name, each in settings.items()}


def _point(steps: int, confidence: float) -> str:
    return f"refine {steps}, confidence {confidence:g}"


def _ours(bench: Bench, settings: Settings) -> Tally:
    tally = Tally(f"{settings.min_confidence:g}")
    with tempfile.TemporaryDirectory() as folder:
        png = Path(folder) / "adversarial.png"
        for end, seconds in bench.attacked(settings):
            tally.seconds += seconds
            outcome_of(end).save(png, overwrite=True)
            tally.passes.append(end.gradients)
            source = Path(end.job.photo.source)
            _judge_file(bench, tally, png, source, end.target, round(end.eps), settings.min_confidence)
    return tally


def _found(bench: Bench, finder: Finder) -> Tally:
    """Run an attack of the literature, one photo and target at a time."""
    tally = Tally("top-1")
    with tempfile.TemporaryDirectory() as folder:
        png = Path(folder) / "adversarial.png"
        for path, index in _pairs(bench.targets):
            photo = np.asarray(open_upright(path))
            began = time.perf_counter()
            picture = finder(bench.judge.model, bench.classifier.preprocessing, photo, index, _FINDER_STEPS)
            tally.seconds += time.perf_counter() - began
            Image.fromarray(picture).save(png)
            tally.passes.append(_FINDER_STEPS)
            _judge_file(bench, tally, png, path, index, 255, 0)
    return tally


def _judge_file(bench: Bench, tally: Tally, png: Path, photo: Path, target: int, eps: int, confidence: float) -> None:
    check = bench.judge.check(png, photo, target=target, eps=eps)
    assert check.linf is not None
    tally.kept.append(check.holds and check.confidence >= confidence)
    tally.largest.append(check.linf)
    tally.seen.append(bench.eye.compare(np.asarray(open_upright(photo)), np.asarray(open_upright(png))))


def _tensors(bench: Bench, peer: Peer) -> Tally:
    """Run another library on the cropped tensors; each photo's targets share its passes."""
    confidence = Settings().min_confidence
    tally = Tally(f"{confidence:g}")
    for path, indices in bench.targets.items():
        wanted = torch.tensor(indices)
        levels = CROP(open_upright(path)).expand(len(indices), -1, -1, -1).clone()
        began = time.perf_counter()
        adversarial = seeded(peer, bench.judge.model, levels, wanted, eps=_EPS, steps=peer.steps)
        tally.seconds += time.perf_counter() - began
        with torch.inference_mode():
            shown = bench.judge.model(adversarial).softmax(1)[range(len(indices)), wanted]
        for before, after, value in zip(levels, adversarial, shown.tolist(), strict=True):
            photo, picture = _levels(before), _levels(after)
            tally.kept.append(value >= confidence)
            tally.largest.append(int(np.abs(photo.astype(int) - picture).max()))
            tally.passes.append(peer.steps)
            tally.seen.append(bench.eye.compare(photo, picture))
    return tally


def _levels(tensor: Tensor) -> Levels:
    """Turn [3, h, w] on the scale 0..1 into whole levels, [h, w, 3]."""
    levels: Levels = (tensor * 255).round().byte().permute(1, 2, 0).numpy()
    return levels


def _pairs(targets: Targets) -> Iterator[tuple[Path, int]]:
    return ((path, index) for path, indices in targets.items() for index in indices)


def _bounding_box(differs: np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[slice, slice]:
    """Return rows and columns of a mask [h, w, 3] that hold all that is true in it."""
    rows, columns = (np.flatnonzero(differs.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _print(bench: Bench, tallies: Mapping[str, Tally]) -> None:
    print_table(
        f"How visible the change is: {sum(map(len, bench.targets.values()))} pairs of photo and target, "
        f"{len(bench.targets)} photos, {bench.classifier.name}, {bench.engine.batch_size} a pass, eps {_EPS} unless "
        f"said otherwise; default: refine {Settings().refine_steps}",
        (
            "",
            "confidence asked for",
            "files that have it",
            "SSIMULACRA2, median",
            "worst",
            "mean CIEDE2000",
            "SSIM",
            "PSNR",
            "mean largest change",
            "mean passes",
            "s a file",
        ),
        [tally.row(name) for name, tally in tallies.items()],
    )


def _draw(tallies: Mapping[str, Tally], file: Path) -> None:
    """Draw SSIMULACRA2 against passes and against confidence."""
    figure = Figure(figsize=(9, 3.6), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw_by_passes(left, {steps: tallies[_point(steps, 0.9)] for steps in _REFINES})
    places = [str(confidence) for confidence in _CONFIDENCES]
    for steps, color in ((Settings().refine_steps, "C0"), (0, "C1")):
        walk = [tallies[_point(steps, confidence)] for confidence in _CONFIDENCES]
        _draw_lines(right, places, walk, color, f"--refine {steps}, ")
    right.set(xlabel="confidence asked for", title="--confidence")
    right.grid(alpha=0.3)
    right.legend(fontsize=8, loc="center right", bbox_to_anchor=(1, 0.35))
    figure.savefig(file)


def draw_by_passes(axes: Any, walk: Mapping[int, Tally]) -> None:
    """Draw SSIMULACRA2 against the mean passes of each number of steps of refinement."""
    passes = [mean(tally.passes) for tally in walk.values()]
    _draw_lines(axes, passes, [*walk.values()], "C0", "")
    for (steps, tally), place in zip(walk.items(), passes, strict=True):
        point = place, median(tally.ssimulacra2)
        axes.annotate(str(steps), point, xytext=(0, 5), textcoords="offset points", ha="center", size=8)
    axes.set(xlabel="passes through the network, mean", ylabel="SSIMULACRA2", title="--refine, at confidence 0.9")
    axes.margins(y=0.1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center right", bbox_to_anchor=(1, 0.35))


def _draw_lines(axes: Any, places: Sequence[float | str], walk: Sequence[Tally], color: str, name: str) -> None:
    axes.plot(places, [median(tally.ssimulacra2) for tally in walk], "o-", color=color, label=f"{name}median file")
    axes.plot(places, [min(tally.ssimulacra2) for tally in walk], "o--", color=color, label=f"{name}worst file")


def _imported(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise click.ClickException(f"{error.name} is not installed; the extra [bench] has it") from error
