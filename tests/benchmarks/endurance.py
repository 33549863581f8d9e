"""Whether a long batch stays as small as it was: thousands of photos through one process, on a tiny network.

A network that costs next to nothing leaves the rest of `advimg batch`: decoding, the loop, encoding, journal. Every so
many photos the process's memory and its open files are counted. It fails, with exit code 1, if the memory at the end is
more than a tenth above what it was at the first count, or if files stay open that were not open before.

With ``--on ray`` actors of Ray make the attacks, on the bundled network, and are killed again and again; see
tests/benchmarks/killed.py for what is checked.

    python -m tests.benchmarks endurance
    python -m tests.benchmarks endurance --on ray --count 2000
"""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image

from advimg.batches.stats import BatchStats
from advimg.engine.allocator import keep_freed_memory
from tests.batches import attack_all, open_descriptors, quick_classifier
from tests.benchmarks.killed import outlive_kills
from tests.benchmarks.measure import print_machine, print_table, progress
from tests.benchmarks.photos import find_photos, photos_option

_SIZE = 258, 194  # 0.05 megapixels
_GROWTH = 1.1


@dataclass(frozen=True, slots=True)
class _Count:
    """What was counted after so many photos.

    Attributes:
        photos: that have ended.
        seconds: since the start.
        memory: resident, in bytes.
        descriptors: open files, with those that are being read and written at the moment.
    """

    photos: int
    seconds: float
    memory: int
    descriptors: int


@click.command()
@photos_option
@click.option("--count", default=5000, show_default=True, type=click.IntRange(2), help="Photos in the batch.")
@click.option("--every", default=500, show_default=True, type=click.IntRange(1), help="Photos between two counts.")
@click.option("--on", type=click.Choice(["ray"]), help="Kill actors of Ray, and the driver, instead of counting.")
@click.option("--kill-every", default=5.0, show_default=True, help="Seconds between two actors that are killed.")
@click.pass_context
def benchmark(
    ctx: click.Context, photos: Path | None, count: int, every: int, on: str | None, kill_every: float
) -> None:
    """Count memory and open files over a long batch; exit 1 if they grow."""
    if on is not None:
        print_machine()
        with tempfile.TemporaryDirectory() as name:
            progress(f"making {count} photos ...")
            made = _make_photos(find_photos(photos), count, Path(name, "photos"))
            outlive_kills(made, Path(name, "out"), kill_every)
        return
    if every >= count:
        raise click.UsageError("--every must be less than --count")
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        progress(f"making {count} photos ...")
        made = _make_photos(find_photos(photos), count, folder / "photos")
        progress("attacking them ...")
        before, counts, after = _watch(made, folder / "out", every)
    print_table(
        f"{count} photos of {_SIZE[0]}x{_SIZE[1]}, a linear network; goal: memory at most {_GROWTH:.0%} of the first",
        ("photos", "seconds", "memory, MB", "of the first", "open files"),
        [
            (
                str(each.photos),
                f"{each.seconds:.1f}",
                f"{each.memory / 1e6:.1f}",
                f"{each.memory / counts[0].memory:.1%}",
                str(each.descriptors),
            )
            for each in counts
        ],
    )
    click.echo(f"\nopen files before the batch {before}, after it {after}")
    grown = counts[-1].memory > _GROWTH * counts[0].memory
    if grown:
        click.echo("the memory has grown")
    if after > before:
        click.echo("files stay open")
    ctx.exit(1 if grown or after > before else 0)


def _watch(photos: list[Path], out: Path, every: int) -> tuple[int, list[_Count], int]:
    """Attack photos; return the open files before, what was counted in between, and the open files after."""
    keep_freed_memory()  # as the command line does
    classifier = quick_classifier()
    counts: list[_Count] = []
    began = time.perf_counter()

    def ended(stats: BatchStats) -> None:
        if stats.done % every == 0 or stats.done == len(photos):
            counts.append(_Count(stats.done, time.perf_counter() - began, _memory(), _descriptors()))

    before = _descriptors()
    stats = attack_all(photos, out, classifier, ended=ended)
    if stats.failures:
        raise click.ClickException(f"{len(stats.failures)} photos failed, the first with: {stats.failures[0][1]}")
    return before, counts, _descriptors()


def _make_photos(sources: list[Path], count: int, folder: Path) -> list[Path]:
    """Write JPEGs that all differ: the sources made small, and shifted."""
    folder.mkdir()
    small = []
    for source in sources:
        with Image.open(source) as picture:
            small.append(np.asarray(picture.convert("RGB").resize(_SIZE)))
    made = []
    for number in range(count):
        shift, which = divmod(number, len(small))
        path = folder / f"{number:05}.jpg"
        Image.fromarray(np.roll(small[which], (shift // _SIZE[0], shift), axis=(0, 1))).save(path)
        made.append(path)
    return made


def _memory() -> int:
    """Return the bytes of this process that are in memory.

    Raises:
        ClickException: this system does not tell.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        raise click.ClickException("this needs /proc, which tells a process's memory on Linux") from None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _descriptors() -> int:
    return open_descriptors() or 0
