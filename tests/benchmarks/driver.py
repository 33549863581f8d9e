"""How many finished photos a second the driver of a Ray cluster serves: the process with the plan and the journal.

The actors pretend: they have each photo's files listed and report a plausible record, and attack nothing. What remains
is the driver's: giving out photos, listing files, writing the journal, counting.

    python -m tests.benchmarks driver
"""

import pickle
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import click

from advimg import __version__
from advimg.batches.exchange import Orders, Report
from advimg.batches.journal import Journal
from advimg.batches.journal_entry import Entry
from advimg.batches.options import Options
from advimg.batches.pipeline import Run
from advimg.batches.plan import Files, Key, plan_items
from advimg.batches.ray_cluster import Bundle, own_cluster
from advimg.batches.ray_executor import OnRay
from advimg.batches.stats import BatchStats
from advimg.labels import Labels
from advimg.settings import Settings
from tests.batches import attack_all, quick_classifier, records_of, save_photo
from tests.benchmarks.measure import print_machine, print_table, progress

if TYPE_CHECKING:
    from collections.abc import Mapping

_GOAL = 2000
"""Photos a second."""
_HELD = 64
"""How many photos an actor takes ahead."""


class Pretending:
    """An actor that reports a record for each photo it is given, as fast as it can.

    Args:
        version: of the driver.
        record: a record to report, as bytes of a pickled mapping.
    """

    def __init__(self, version: str, record: bytes) -> None:
        assert version == __version__
        self._record: Mapping[str, Any] = pickle.loads(record)
        self._listed: dict[int, Any] = {}
        self._number = 0
        self._stop = False

    def exchange(self, orders: Orders) -> Report:
        """Report what was listed before as done, and have the files of new photos listed."""
        records = [self._of(self._listed.pop(number)) for number in orders.answers]
        begins = {}
        for photo in orders.photos:
            for item in photo:
                self._number += 1
                self._listed[self._number] = item
                begins[self._number] = {path: "0" * 64 for _, path in item.outputs}
        if not begins and not records and not orders.stop:
            time.sleep(0.002)
        return Report(
            node="node",
            host="host",
            process=0,
            state="ended" if orders.stop else "ready",
            begins=begins,
            records=records,
            wanted=_HELD,
            error=None,
        )

    def _of(self, item: Any) -> dict[str, Any]:
        outputs = {key: str(path) for key, path in item.outputs}
        return {
            **self._record,
            "source": str(item.key.source),
            "outputs": outputs,
            "outputs_sha256": dict.fromkeys(outputs, "0" * 64),
        }


@click.command()
@click.option("--count", default=20_000, show_default=True, type=click.IntRange(1), help="Photos in the batch.")
@click.option("--actors", default="1,2,8", show_default=True, help="How many actors, with commas between them.")
def benchmark(count: int, actors: str) -> None:
    """Time the driver with actors that pretend."""
    numbers = [int(number) for number in actors.split(",")]
    print_machine()
    with tempfile.TemporaryDirectory() as name, own_cluster(max(numbers)):
        rates = [_rate(Path(name) / str(number), number, count) for number in numbers]
    print_table(
        f"{count} photos that nobody attacks, the journal on this disk; goal: {_GOAL} photos/s",
        ("actors", "photos/s"),
        [(str(number), f"{rate:.0f}") for number, rate in zip(numbers, rates, strict=True)],
    )


def _rate(folder: Path, actors: int, count: int) -> float:
    """Return how many photos a second so many actors and one driver finish."""
    photo = save_photo(folder / "photos" / "real.jpg", size=(64, 48))
    attack_all([photo], folder / "real", quick_classifier())
    (record,) = records_of(folder / "real")
    progress(f"{actors} actors that pretend ...")
    files = Files(folder=folder / "out", root=folder / "photos")
    keys = [Key(folder / "photos" / f"{number:06}.jpg", record["target"]["index"], 10.0) for number in range(count)]
    items = plan_items(keys, files, Labels(f"class {index}" for index in range(6)), recorded={})
    places = [Bundle("cpu", None, {"num_cpus": 0})] * actors
    executor = OnRay(places, [], own=False, warn=click.echo)
    stats = BatchStats(count)
    with (
        Journal.opened(files.folder) as journal,
        mock.patch("advimg.batches.ray_slot.PipelineActor", Pretending),
        mock.patch.object(OnRay, "_task", return_value=pickle.dumps(record)),
    ):
        run = Run(
            files,
            journal,
            Options(settings=Settings()),
            began=stats.start,
            ended=lambda line: stats.add(Entry.of(line)),
            stop=threading.Event(),
        )
        executor.attack(items, run)
        stats.end()
    if stats.done != count or len(Path(str(files.folder), "results.jsonl").read_bytes().splitlines()) != count:
        raise click.ClickException(f"{stats.done} of {count} photos are done")
    return count / stats.seconds
