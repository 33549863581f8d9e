"""A long batch on Ray whose actors are killed again and again, and whose driver is killed once.

Afterwards nothing is lost and nothing twice, each PNG is the one that was recorded, and the record's verdict is that of
code that is not advimg's (tests/referee.py).
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tests.batches import code_of, journal_lines, key_of, records_of, sha256
from tests.benchmarks.measure import advimg_command, progress
from tests.referee import Judge

_EPS = 10


def outlive_kills(photos: list[Path], out: Path, every: float) -> None:
    """Attack photos by two actors, kill one of them every so many seconds, and the driver half way; check the folder.

    Raises:
        ClickException: something is lost, twice, or not what its record says.
    """
    arguments = ["batch", str(photos[0].parent), "-t", "random", "-m", "efficientnet_lite0", "--refine", "0"]
    command = [*advimg_command(), *arguments, "-O", str(out), "--on", "ray:local", "--device", "cpu,cpu"]
    progress("attacking them, until the driver is killed half way ...")
    killed = _run(command, out, every, until=len(photos) // 2)
    before = journal_lines(out)
    progress(f"{killed} actors were killed, and the driver after {len(before)} photos; again ...")
    more = _run(command, out, every, until=None)
    progress(f"{more} actors were killed; judging the files ...")
    if journal_lines(out)[: len(before)] != before:
        raise click.ClickException("the second run changed what the first had recorded")
    _check(photos, out)
    click.echo(f"{len(photos)} photos, {killed + more} actors and one driver killed: nothing lost, nothing twice")


def _run(command: list[str], out: Path, every: float, *, until: int | None) -> int:
    """Run the command, to its end or until so many photos are done; return how many actors were killed."""
    mark = f"ADVIMG_ENDURANCE={out}"
    chance = random.Random(0)
    killed, last = 0, time.monotonic()
    with subprocess.Popen(command, env={**os.environ, **dict([mark.split("=", 1)])}) as process:
        while process.poll() is None:
            time.sleep(0.2)
            if until is not None and len(journal_lines(out)) >= until:
                process.kill()
            elif time.monotonic() - last > every and (actors := _actors(mark)) and journal_lines(out):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(actors), signal.SIGKILL)
                    killed += 1
                last = time.monotonic()
    if until is None and process.returncode != code_of(records_of(out)):
        raise click.ClickException(f"the batch ended with exit code {process.returncode}")
    return killed


def _actors(mark: str) -> list[int]:
    """Return the processes of the actors of a batch."""
    found = []
    for folder in sorted(Path("/proc").glob("[0-9]*")):
        with contextlib.suppress(OSError):
            named = (folder / "cmdline").read_bytes().startswith(b"ray::PipelineActor")
            if named and mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _check(photos: list[Path], out: Path) -> None:
    records = records_of(out)
    if len({key_of(record) for record in records}) != len(records):
        raise click.ClickException("a photo is in the journal twice")
    if sorted(record["source"] for record in records) != sorted(map(str, photos)):
        raise click.ClickException(f"the journal has {len(records)} of {len(photos)} photos")
    judge = Judge()
    for record in records:
        _check_file(record, judge)
    named = {path for record in records for path in record["outputs"].values()}
    named |= {str(out / name) for name in ("results.jsonl", "results.csv", "summary.json")}
    if others := {str(path) for path in out.rglob("*") if path.is_file()} ^ named:
        raise click.ClickException(f"{min(others)} is there without a record, or recorded and not there")
    unfinished = json.loads((out / "summary.json").read_bytes())["unfinished"]
    if unfinished:
        raise click.ClickException(f"the summary says that {unfinished} are unfinished")


def _check_file(record: Mapping[str, Any], judge: Judge) -> None:
    if record["error"] is not None:
        raise click.ClickException(f"a photo failed: {record['error']}")
    path = Path(record["outputs"]["adversarial"])
    if record["adversarial_sha256"] != sha256(path):
        raise click.ClickException(f"{path} is not what was recorded")
    found = judge.check(path, Path(record["source"]), target=record["target"]["index"], eps=_EPS)
    if found.holds != record["fooled"]:
        raise click.ClickException(f"{path}: the record says {record['fooled']}, the referee {found.holds}")
