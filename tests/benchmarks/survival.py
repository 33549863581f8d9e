"""What changes files survive, judged by code that is not advimg's (tests/referee.py).

Every photo is attacked towards random classes on the bundled network, with ``--survive web`` and without, the PNG is
written, opened again from the disk and judged as it is and after changes by the real codecs, which PIL does here. The
first table has the changes that ``web`` stands for, the second others of comparable strength, which nobody asked for,
and the third harsher ones, or others. The last one tells what that costs: how visible the change is, see
:mod:`tests.benchmarks.visibility`, and how many passes through the network it takes. Each claim of a record, on the
file as it is and after each change, is held against the judge's verdict; a wrong claim is one that differs.

Beside it, in the same run: EoT-PGD through kornia's differentiable JPEG (peers_survival.py), with as many passes
through the network as ``--survive web`` takes on average at the same eps.

    python -m tests.benchmarks survival --photos FOLDER
"""

import importlib
import io
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, median

import click
import numpy as np
from PIL import Image, ImageEnhance, ImageOps, features
from PIL.Image import Resampling

from advimg.classifiers.load import load_classifier
from advimg.engine.engine import Engine
from advimg.outcome import outcome_of
from advimg.record import Record
from advimg.settings import Settings
from tests.benchmarks.measure import print_machine, print_table, progress
from tests.benchmarks.peers_survival import EotPgd
from tests.benchmarks.photos import device_option, find_photos, photos_option
from tests.benchmarks.strength import random_targets
from tests.benchmarks.visibility import Bench, Eye, Seen
from tests.referee import Judge, open_upright

_OURS: Mapping[str, Settings] = {
    "eps 10, confidence 0.99": Settings(confidence=0.99, refine=0),
    "eps 10, web": Settings(survive="web"),
    "eps 4, confidence 0.99": Settings(eps=4, confidence=0.99, refine=0),
    "eps 4, web": Settings(eps=4, survive="web"),
    "eps 10, web, refine 0": Settings(survive="web", refine=0),
}


@dataclass(frozen=True)
class _Peer:
    """A row of EoT-PGD.

    Attributes:
        eps: in levels.
        stride: of a step, as a share of eps.
        matched: the row of ours that it gets the passes of.
    """

    eps: int
    stride: float
    matched: str


# Of strides of a quarter and a tenth of eps, the one that was better on a few photos.
_PEERS: Mapping[str, _Peer] = {
    "EoT-PGD, eps 10": _Peer(10, 0.1, "eps 10, web"),
    "EoT-PGD, eps 4": _Peer(4, 0.25, "eps 4, web"),
}

_Edit = Callable[[Image.Image], Image.Image]
"""What happens to an RGB picture."""


def _coded(format_: str, quality: int, **options: str) -> _Edit:
    def edit(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, format_, quality=quality, **options)
        with Image.open(buffer) as coded:
            return coded.convert("RGB")

    return edit


def _scaled(factor: float, resampling: Resampling = Resampling.BICUBIC, then: _Edit | None = None) -> _Edit:
    def edit(picture: Image.Image) -> Image.Image:
        scaled = picture.resize((round(picture.width * factor), round(picture.height * factor)), resampling)
        return scaled if then is None else then(scaled)

    return edit


def _cropped(share: float) -> _Edit:
    """Cut a share off both sides, and keep the centre."""

    def edit(picture: Image.Image) -> Image.Image:
        width, height = (round(side * (1 - share)) for side in picture.size)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return picture.crop((left, top, left + width, top + height))

    return edit


_ASKED: Mapping[str, _Edit] = {
    "jpeg:75": _coded("JPEG", 75, subsampling="4:2:0"),
    "jpeg:50": _coded("JPEG", 50, subsampling="4:2:0"),
    "webp:80": _coded("WEBP", 80),
    "resize:0.5": _scaled(0.5),
    "crop:0.1": _cropped(0.1),
    "resize:0.5+jpeg:75": _scaled(0.5, then=_coded("JPEG", 75, subsampling="4:2:0")),
}
"""The changes of ``web``, as records name them."""

_UNASKED: Mapping[str, _Edit] = {
    "JPEG 90": _coded("JPEG", 90, subsampling="4:2:0"),
    "JPEG 60": _coded("JPEG", 60, subsampling="4:2:0"),
    "75 4:4:4": _coded("JPEG", 75, subsampling="4:4:4"),
    "WebP 90": _coded("WEBP", 90),
    "WebP 70": _coded("WEBP", 70),
    **({"AVIF 60": _coded("AVIF", 60)} if features.check("avif") else {}),
    "Lanczos": _scaled(0.5, Resampling.LANCZOS),
    "bilinear": _scaled(0.5, Resampling.BILINEAR),
    "3/4": _scaled(0.75),
    "3/4 JPEG 75": _scaled(0.75, then=_coded("JPEG", 75, subsampling="4:2:0")),
}

_HARSHER: Mapping[str, _Edit] = {
    "JPEG 40": _coded("JPEG", 40, subsampling="4:2:0"),
    "WebP 60": _coded("WEBP", 60),
    "3/4 JPEG 60": _scaled(0.75, then=_coded("JPEG", 60, subsampling="4:2:0")),
    "crop 0.05": _cropped(0.05),
    "crop 0.2": _cropped(0.2),
    "mirror": ImageOps.mirror,
    "brightness 1.2": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
}

_EDITS: Mapping[str, _Edit] = {**_ASKED, **_UNASKED, **_HARSHER}


@dataclass
class Tally:
    """What came of the files of a row.

    Attributes:
        kept: of how many files each change left the target; "" is the file as it is, within eps.
        kept_all: how many are the target as they are and after each change that ``web`` stands for.
        disagreements: how many claims of the records the judge contradicts; None where nothing is claimed.
    """

    files: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    kept_all: int = 0
    disagreements: int | None = None
    seen: list[Seen] = field(default_factory=list)
    largest: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    seconds: float = 0.0

    def note(self, bench: Bench, png: Path, photo: Path, target: int, eps: int) -> Mapping[str, bool]:
        """Judge a file; return whether it is the target after each change, and as it is under the name ""."""
        check = bench.judge.check(png, photo, target=target, eps=eps)
        assert check.linf is not None
        picture = open_upright(png)
        holds = {"": check.holds}
        for name, edit in _EDITS.items():
            holds[name] = int(bench.judge.see(edit(picture)).argmax()) == target
        self.files += 1
        self.kept.update(name for name, each in holds.items() if each)
        self.kept_all += all(holds[name] for name in ("", *_ASKED))
        self.largest.append(check.linf)
        self.seen.append(bench.eye.compare(np.asarray(open_upright(photo)), np.asarray(picture)))
        return holds

    def note_claims(self, record: Record, holds: Mapping[str, bool]) -> None:
        """Hold what a record says against what the judge sees."""
        claims = {each.change: each.fooled for each in record.survives}
        wrong = sum(claimed != holds[change] for change, claimed in claims.items())
        wrong += record.fooled != all(holds[name] for name in ("", *claims))
        self.disagreements = (self.disagreements or 0) + wrong

    def survived(self, edits: Mapping[str, _Edit]) -> list[str]:
        """Return how many files each change left the target."""
        return [str(self.kept[name]) for name in edits]

    def cost(self) -> tuple[str, ...]:
        """Return how visible the files are, and what they took."""
        ssimulacra2 = [each.ssimulacra2 for each in self.seen]
        return (
            f"{median(ssimulacra2):.1f}",
            f"{min(ssimulacra2):.1f}",
            f"{mean(each.ciede2000 for each in self.seen):.2f}",
            f"{mean(self.largest):.1f}",
            f"{mean(self.steps):.1f}",
            f"{mean(self.passes):.1f}",
            f"{self.seconds / self.files:.2f}",
            "-" if self.disagreements is None else str(self.disagreements),
        )


@click.command()
@photos_option
@device_option
@click.option("--targets", default=4, show_default=True, type=click.IntRange(1, 100), help="Random targets a photo.")
@click.option("--seed", default=0, show_default=True, help="Of the targets.")
@click.option("--slots", default=8, show_default=True, type=click.IntRange(1), help="Views that share a pass.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([*_OURS, *_PEERS]),
    help="A row; all of them if not given. EoT-PGD brings the row that it gets the passes of.",
)
@click.option("--peers/--no-peers", default=True, help="Whether to compare EoT-PGD through kornia's JPEG.")
def benchmark(
    photos: Path | None, device: str, targets: int, seed: int, slots: int, only: Sequence[str], peers: bool
) -> None:
    """Count the files that are still the target after changes."""
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
    others = {name: peer for name, peer in _PEERS.items() if peers and (not only or name in only) and _kornia_is_here()}
    needed = {*only, *(peer.matched for peer in others.values())}
    tallies: dict[str, Tally] = {}
    for name, settings in _OURS.items():
        if not only or name in needed:
            tallies[name] = _measured(name, partial(_ours, bench, settings))
    for name, peer in others.items():
        tallies[name] = _measured(name, partial(_peers, bench, peer, mean(tallies[peer.matched].passes)))
    _print(bench, tallies)


def _kornia_is_here() -> bool:
    try:
        importlib.import_module("kornia.enhance")
    except ImportError as error:
        click.echo(f"kornia: {error}")
        return False
    return True


def _measured(name: str, measure: Callable[[], Tally]) -> Tally:
    progress(f"{name} ...")
    tally = measure()
    progress(f"  {tally.kept_all}/{tally.files}  {'  '.join(tally.cost())}")
    return tally


def _ours(bench: Bench, settings: Settings) -> Tally:
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        png = Path(folder) / "adversarial.png"
        for end, seconds in bench.attacked(settings):
            tally.seconds += seconds
            outcome = outcome_of(end)
            outcome.save(png, overwrite=True)
            tally.steps.append(end.steps)
            tally.passes.append(end.gradients)
            holds = tally.note(bench, png, Path(end.job.photo.source), end.target, round(end.eps))
            tally.note_claims(outcome.record, holds)
    return tally


def _peers(bench: Bench, peer: _Peer, passes: float) -> Tally:
    """Run EoT-PGD, one photo and target at a time, with about so many passes through the network."""
    tally = Tally()
    attack = EotPgd(bench.judge.model, peer.stride, bench.classifier.device)
    steps = max(1, round(passes / len(attack.views)))
    with tempfile.TemporaryDirectory() as folder:
        png = Path(folder) / "adversarial.png"
        for path, indices in bench.targets.items():
            for index in indices:
                photo = np.asarray(open_upright(path))
                began = time.perf_counter()
                picture = attack(photo, index, eps=peer.eps, steps=steps)
                tally.seconds += time.perf_counter() - began
                Image.fromarray(picture).save(png)
                tally.steps.append(steps)
                tally.passes.append(steps * len(attack.views))
                tally.note(bench, png, path, index, peer.eps)
    return tally


def _print(bench: Bench, tallies: Mapping[str, Tally]) -> None:
    files = sum(map(len, bench.targets.values()))
    print_table(
        f"Files that are the target, of {files}: {len(bench.targets)} photos, {bench.classifier.name}; "
        "web: --survive web; without it, refine 0",
        ("", "as it is", *_ASKED, "all seven"),
        [(name, str(each.kept[""]), *each.survived(_ASKED), str(each.kept_all)) for name, each in tallies.items()],
    )
    print_table(
        f"After changes that were not asked for, of {files} (Lanczos, bilinear: half size; 3/4: bicubic)",
        ("", *_UNASKED),
        [(name, *each.survived(_UNASKED)) for name, each in tallies.items()],
    )
    print_table(
        f"After harsher ones, or others, of {files}",
        ("", *_HARSHER),
        [(name, *each.survived(_HARSHER)) for name, each in tallies.items()],
    )
    print_table(
        "What it costs; CIEDE2000, largest change, steps and passes: the mean",
        (
            "",
            "SSIMULACRA2, median",
            "worst",
            "CIEDE2000",
            "largest",
            "steps",
            "passes",
            "s a file",
            "wrong claims",
        ),
        [(name, *each.cost()) for name, each in tallies.items()],
    )
