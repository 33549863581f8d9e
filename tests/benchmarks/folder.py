"""A folder of photos, whole processes: ``advimg batch`` against plain scripts over other libraries.

Photos a second beyond start-up: the time of a process on 48 photos less that of one on 16 of them, for the 32 photos
between. advimg attacks the photo's own 500x375 pixels, stops at its default confidence, verifies each file on the disk
and writes two pictures a photo; the scripts (tests/benchmarks/peer_folder.py) take all their library's default steps on
the cropped tensor, in batches of 8, and save it. Targets are random. Contenders take turns.

Then the files are judged by code that is not advimg's (tests/referee.py). Theirs have the size of the crop: they are
judged as any photo is, resized and cropped, and also as they are.

Last, how busy advimg keeps the network (tests/benchmarks/busy.py): for the rest of its loop the network waits.

    python -m tests.benchmarks folder --photos FOLDER
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import click
import torch
from torchvision.transforms.functional import to_tensor

from advimg.classifiers.device import find_device
from advimg.settings import Settings
from tests.benchmarks.contenders import EXIT_CODES, Contender, Made, advimg, batch_arguments, script_over
from tests.benchmarks.measure import Spread, in_turns, print_machine, print_table, progress, ratios, run_process
from tests.benchmarks.peers import find_peers
from tests.benchmarks.photos import SIZE, device_option, find_photos, make_photos, photos_option
from tests.referee import Judge, open_upright

_CONFIDENCE = Settings().min_confidence

_MOST_STEPS = 40
"""Of a peer: with more by default, a folder would take a quarter of an hour."""


@click.command()
@photos_option
@device_option
@click.option("-e", "--eps", default=Settings().eps, show_default=True, type=click.IntRange(1, 255))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Turns of each.")
@click.option("--few", default=16, show_default=True, type=click.IntRange(1), help="Photos of the short process.")
@click.option("--many", default=48, show_default=True, type=click.IntRange(2, 100), help="Photos of the long one.")
@click.option("--peers/--no-peers", default=True, help="Whether to compare other libraries.")
@click.option("--peer", "named", multiple=True, help="A library to compare; all that are installed if not given.")
def benchmark(
    photos: Path | None,
    device: str,
    eps: int,
    rounds: int,
    few: int,
    many: int,
    peers: bool,
    named: Sequence[str],
) -> None:
    """Time `advimg batch` and scripts over other libraries on a folder, and judge their files."""
    if few >= many:
        raise click.UsageError("--few must be less than --many")
    print_machine()
    place = str(find_device(device))
    others = [
        peer
        for peer in (find_peers() if peers else ())
        if peer.steps <= _MOST_STEPS and (peer.package in named or not named)
    ]
    contenders = [
        *(advimg(eps, place, refine=steps) for steps in (0, Settings().refine_steps)),
        *(script_over(peer, eps, place) for peer in others),
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (few, many):
            make_photos(find_photos(photos), count, folder / str(count))
        short, long = folder / str(few), folder / str(many)
        _print_rates(contenders, short, long, rounds)
        _print_worth(contenders, long, eps)
        _print_busy(long, folder / "busy", eps, place, rounds)


def _print_rates(contenders: Sequence[Contender], short: Path, long: Path, rounds: int) -> None:
    processes = {
        (contender, photos): partial(contender.seconds, photos) for contender in contenders for photos in (short, long)
    }
    measured = in_turns(processes, rounds)
    extra = int(long.name) - int(short.name)
    rates: dict[Contender, list[float]] = {}
    for contender in contenders:
        pairs = zip(measured[contender, long], measured[contender, short], strict=True)
        beyond = [whole - start for whole, start in pairs]
        if min(beyond) <= 0:
            raise click.ClickException(f"{contender.name} was faster with more photos; is the machine idle?")
        rates[contender] = [extra / seconds for seconds in beyond]
    others = contenders[1:]
    print_table(
        f"Photos of {SIZE[0]}x{SIZE[1]} a second beyond start-up: {long.name} photos less {short.name}, median "
        f"(quartiles) of {rounds} rounds, ratios within a round",
        ("contender", "photos/s", *(f"ratio to {other.name}" for other in others), f"s, {short.name} photos"),
        [
            (
                contender.name,
                Spread.of(rates[contender]).text(2),
                *(ratios(rates[contender], rates[other]).text(2) for other in others),
                Spread.of(measured[contender, short]).text(1),
            )
            for contender in contenders
        ],
    )


def _print_worth(contenders: Sequence[Contender], photos: Path, eps: int) -> None:
    progress("judging the files ...")
    judge = Judge()
    print_table(
        f"Files of {photos.name} photos, judged independently",
        (
            "contender",
            "are the target",
            f"with confidence {_CONFIDENCE} or more",
            "the whole photo, within eps",
            "are the target, fed as they are",
        ),
        [_worth(contender, contender.made(photos), judge, eps) for contender in contenders],
    )


def _worth(contender: Contender, made: Sequence[Made], judge: Judge, eps: int) -> tuple[str, ...]:
    checks = [judge.check(file.png, file.photo, target=file.target, eps=eps) for file in made]
    hits = [check.top1 == file.target for check, file in zip(checks, made, strict=True)]
    sure = [hit and check.confidence >= _CONFIDENCE for hit, check in zip(hits, checks, strict=True)]
    kept = [check.linf is not None and check.linf <= eps for check in checks]
    fed = [_fed(judge, file.png) == file.target for file in made] if contender.crops else None
    return (
        contender.name,
        _share(hits),
        _share(sure),
        _share(kept),
        "-" if fed is None else _share(fed),
    )


def _fed(judge: Judge, png: Path) -> int:
    """Return what the network sees in a picture that has the size of the crop already."""
    with torch.inference_mode():
        logits = judge.model(to_tensor(open_upright(png)).unsqueeze(0))
    return int(logits.argmax())


def _share(values: Sequence[bool]) -> str:
    return f"{sum(values)}/{len(values)}"


def _print_busy(photos: Path, out: Path, eps: int, device: str, rounds: int) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.busy",
        device,
        *batch_arguments(photos, out, eps, device, refine=0),
    ]
    runs: list[dict[str, float]] = []
    for number in range(rounds):
        progress(f"how busy the network is, {number + 1} of {rounds} ...")
        shutil.rmtree(out, ignore_errors=True)
        runs.append(json.loads(run_process(command, expect=EXIT_CODES).stdout))
    parts = ("forward", "backward", "verdicts")
    shares = [sum(run[part] for part in parts) / run["loop"] for run in runs]
    seconds = (f"{median(run[part] for run in runs):.2f}" for part in (*parts, "loop"))
    print_table(
        f"How busy the network is with {photos.name} photos, median seconds of {rounds} processes",
        ("", *parts, "the whole loop", "the network's share"),
        [("advimg batch", *seconds, Spread.of(shares).text(2))],
    )
