"""What it costs to start a batch again that is finished: seconds and memory, by the number of its records.

The folder is made up: one attack is made for real, and its record, photo and pictures are varied, so that every record
has a photo of its own and two pictures on the disk, in folders of a thousand. Nothing is left to attack. Each phase is
timed in a process of its own, after those before it; its memory is the most that the process held until then, beyond
what it held after the imports. The last row is the same command as a whole process, from the interpreter's start.

    python -m tests.benchmarks resume --records 100000
"""

import json
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from tests.benchmarks.measure import print_machine, print_table, progress, run_process

_A_FOLDER = 1000
_PHASES = {
    "import": "import advimg.batches, and torch with it",
    "find": "find the photos",
    "plan": "plan all attacks anew",
    "open": "open the journal",
    "compare": "compare plan, journal and files",
    "sums": "write summary.json and results.csv",
}


@click.command()
@click.option("--records", default=100_000, show_default=True, type=click.IntRange(1), help="How many are finished.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the photos and results there, to measure again.")
@click.option("--links", is_flag=True, help="Make one file of each kind a folder, and links to it: for a million.")
@click.option("--phase", "phases", multiple=True, type=click.Choice([*_PHASES, "all"]), help="Only this; repeatable.")
def benchmark(records: int, folder: Path | None, links: bool, phases: tuple[str, ...]) -> None:
    """Time the phases of a resumed batch that has nothing to do."""
    print_machine()
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary) / "resume"
        if not place.exists():
            progress(f"making {records:,} photos and results ...")
            make = [sys.executable, "-m", "tests.benchmarks.resume", "make", str(place), str(records)]
            run_process([*make, "links"] if links else make)
        rows = [_row(phase, place) for phase in phases or (*_PHASES, "all")]
    print_table(
        f"A finished batch of {records:,} attacks, started again",
        ("phase", "seconds", "of the CPU", "peak memory in MB", "beyond the imports"),
        rows,
    )


def _row(phase: str, place: Path) -> tuple[str, ...]:
    progress(f"{phase} ...")
    finished = run_process([sys.executable, "-m", "tests.benchmarks.resume", phase, str(place)])
    told = json.loads(finished.stdout)
    seconds = finished.seconds if phase == "all" else told["seconds"]
    return (
        _PHASES.get(phase, "the whole process"),
        f"{seconds:.1f}",
        f"{told['cpu']:.1f}",
        f"{told['peak'] / 1e6:.0f}",
        f"{(told['peak'] - told['imports']) / 1e6:.0f}",
    )


def _make(place: Path, records: int, *, links: bool) -> None:
    """Make photos, pictures and the journal of a finished batch, one a photo."""
    from tests.batches import save_photo

    with tempfile.TemporaryDirectory() as real:
        save_photo(Path(real, "photos/000/p.jpg"))
        _run(Path(real))
        photo = Path(real, "photos/000/p.jpg").read_bytes()
        (line,) = Path(real, "out/results.jsonl").read_text(encoding="ascii").splitlines()
        record = json.loads(line)
        pictures = {kind: Path(real, "out", path).read_bytes() for kind, path in record["outputs"].items()}
        shutil.copytree(Path(real, "out"), place / "out", ignore=shutil.ignore_patterns("000", "results.*"))
    with (place / "out/results.jsonl").open("w", encoding="ascii") as journal:
        for number in range(records):
            journal.write(json.dumps(_varied(place, number, record, photo, pictures, links=links)) + "\n")


def _varied(
    place: Path, number: int, record: dict[str, Any], photo: bytes, pictures: dict[str, bytes], *, links: bool
) -> Any:
    import hashlib

    from advimg.batches.stamps import stamp_of

    name, within = f"p{number:07}", f"{number // _A_FOLDER:03}"
    source = place / "photos" / within / f"{name}.jpg"
    if number % _A_FOLDER == 0:
        source.parent.mkdir(parents=True)
        (place / "out" / within).mkdir()
    first = number // _A_FOLDER * _A_FOLDER if links else number
    data = photo + str(first).encode()
    outputs = {kind: path.replace("000/p_", f"{within}/{name}_") for kind, path in record["outputs"].items()}
    files = {"source": source, **{kind: place / "out" / path for kind, path in outputs.items()}}
    for kind, path in files.items():
        if first == number:
            path.write_bytes(pictures.get(kind, data))
        else:
            path.hardlink_to(path.with_name(path.name.replace(name, f"p{first:07}")))
    return record | {
        "source": f"../photos/{within}/{name}.jpg",
        "source_sha256": hashlib.sha256(data).hexdigest(),
        "outputs": outputs,
        "stamps": {kind: stamp_of(path) for kind, path in files.items()},
    }


def _phases(place: Path, *, plan: bool) -> Iterator[str]:
    """Run a finished batch again, and yield the name of each phase when it has ended.

    Args:
        place: of the photos and results.
        plan: whether to plan all attacks as if there were no journal, too.
    """
    from advimg.batches.executor import InProcess
    from advimg.batches.journal import Journal
    from advimg.batches.options import Options
    from advimg.batches.photos import find_photos
    from advimg.batches.plan import Files, each_target, plan_items
    from advimg.batches.run import Batch
    from advimg.settings import Settings
    from tests.batches import quick_classifier

    classifier, options = quick_classifier(), Options(settings=Settings())
    yield "import"
    found = find_photos([place / "photos"], out_dir=place / "out", recursive=True)
    yield "find"
    files = Files(folder=place / "out", root=found.root)
    keys = each_target(found.photos, [3], options.settings.eps)
    if plan:
        plan_items(keys, files, classifier.labels, recorded={})
        yield "plan"
    with ExitStack() as stack:
        journal = stack.enter_context(Journal.opened(files.folder))
        yield "open"
        batch = Batch(keys, files, InProcess([classifier]), journal, options)
        yield "compare"
        batch.run(stop=threading.Event(), ended=print)
    if batch.stats.earlier != len(keys):
        raise click.ClickException(f"{len(keys) - batch.stats.earlier} attacks were made anew")
    yield "sums"


def _run(place: Path) -> None:
    """Run the batch as the Python interface does."""
    import advimg
    from tests.batches import quick_classifier

    advimg.batch(place / "photos", 3, out_dir=place / "out", model=quick_classifier(), recursive=True)


def _main(phase: str, place: Path, *about: str) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    imports = 0
    if phase == "make":
        _make(place, int(about[0]), links="links" in about)
        return
    for ended in _phases(place, plan=phase == "plan"):
        imports = imports or _peak()
        if ended == phase:
            break
        if phase != "all":
            began, cpu = time.perf_counter(), time.process_time()
    told = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    print(json.dumps({**told, "peak": _peak(), "imports": imports}))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
