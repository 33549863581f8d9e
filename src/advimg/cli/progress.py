"""A batch that a person watches: a moving line on a terminal, plain lines elsewhere, a table at the end, and Ctrl-C.

The first Ctrl-C or SIGTERM asks the batch to end well, the second ends it at once.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from advimg.batches.options import Options
from advimg.batches.ray_slot import end_own_actors
from advimg.batches.run import Batch
from advimg.batches.stats import BatchStats
from advimg.classifiers.program import end_programs
from advimg.cli.console import Console, shown_path
from advimg.engine.allocator import keep_freed_memory
from advimg.errors import DeviceError, DiskError, ExitCode, OutputError
from advimg.formatting import percent
from advimg.record import CheckedRecord, NetworkRecord, Record
from advimg.record_schema import record_of
from advimg.settings import Settings
from advimg.storage.url import Place

_PLAIN_EVERY = 10
"""Seconds between two plain lines."""
_FAILURES = 50
"""How many failures are named as they come: a long list of missing photos would hide everything else."""
_REASONS = 10
"""How many failures the table at the end names."""


def batch_run_options(given: Mapping[str, Any], settings: Settings, console: Console) -> dict[str, Any]:
    """Return the arguments of :func:`advimg.batches.run.opened` that the command line gives."""
    options = Options(
        settings=settings,
        precision=given["precision"],
        batch_size=given["batch_size"],
        metadata=given.get("metadata", True),
        max_pixels=given["max_pixels"],
        force=given["force"],
        retry_failed=given["retry_failed"],
        worst_case=tuple(map(str.strip, given["worst_case"].split(","))) if given["worst_case"] else (),
        pack=given["pack"],
    )
    return {
        "options": options,
        "devices": given["devices"],
        "on": given["on"],
        "progress": not given["quiet"],
        "warn": console.warn,
    }


def run_shown(batch: Batch, console: Console, *, as_json: bool) -> bool:
    """Run a batch; with ``as_json``, print each record as a line on stdout.

    Returns:
        Whether it was brought to its end; if not, it was interrupted.

    Raises:
        DiskError: the disk takes no more.
        OutputError: stdout was closed.
        ClassifierError: the network does not behave like a classifier.
        DeviceError: a device cannot be used, or none is left.
    """
    keep_freed_memory()
    stats = batch.stats
    if stats.earlier:
        console.say(f"{stats.earlier} of {stats.total} were done by an earlier run")
    unchanged = 0
    with _stop_on_signals() as (stop, interrupted), _show_progress(stats, console, silent=as_json) as show:

        def ended(record: dict[str, Any]) -> None:
            nonlocal unchanged
            show(record)
            unchanged += _showed_target(record)
            if as_json:
                _print_line(json.dumps(record))

        try:
            batch.run(stop=stop, ended=ended)
        except DiskError as error:
            raise DiskError(
                f"{error}; {stats.done} of {stats.total} are done; once there is room, run the same command again to "
                "go on"
            ) from error
        except DeviceError as error:
            raise DeviceError(
                f"{error}; {stats.done} of {stats.total} are done; run the same command again to go on"
            ) from error
    if unchanged:
        console.warn(f"{unchanged} of the photos showed their target already: no attack was needed")
    return not interrupted.is_set() or stats.done == stats.total


def tell_interrupted(stats: BatchStats, console: Console) -> None:
    """Say that a batch was interrupted, and how to go on."""
    console.error(f"interrupted; {stats.done} of {stats.total} are done; run the same command again to go on")


def print_summary(stats: BatchStats, folder: Place, console: Console) -> None:
    """Print the counts of a batch, the reasons of its failures, and its pace."""
    console.say(f"{stats.done} of {stats.total} attacks, in {shown_path(folder)}", "bold")
    rows = [("verified", stats.verified), ("not reached", stats.not_reached), ("failed", len(stats.failures))]
    rows += [(f"fool {name}", count) for name, count in stats.checked.items()]
    rows += [("no answer", len(stats.unanswered))] * bool(stats.unanswered)
    wide = max(12, *(len(name) + 1 for name, _ in rows))
    for name, count in rows:
        share = f"{count / stats.done:8.1%}".replace("%", " %") if stats.done else ""
        console.say(f"  {name:<{wide}}{count:>7}{share}")
    if stats.delta_e_mean is not None:
        console.say(f"  mean ΔE {stats.delta_e_mean:.2g} (about 1 can just be noticed)")
    for each in stats.accuracies:
        shares = f"{percent(each.clean_accuracy)} clean, {percent(each.robust_accuracy)} robust"
        console.say(f"  accuracy of {each.model}: {shares}, of {each.photos} photos with a true label")
    failed = (*stats.failures, *stats.unanswered)
    reasons = list(dict.fromkeys(error for _, error in failed))  # once for a photo with several targets
    for reason in reasons[:_REASONS]:
        console.say(f"  failed: {reason}", "red")
    if len(reasons) > _REASONS:
        console.say(f"  and {len(reasons) - _REASONS} more; summary.json has them all", "red")
    if stats.unanswered:
        console.say("  the same command with --retry-failed asks again where there is no answer")
    if stats.earlier == stats.total:
        return
    now = f"{stats.done - stats.earlier} now " if stats.earlier else ""
    pace = [f"{now}in {duration(stats.seconds)}"]
    if stats.rate is not None:
        pace.append(f"{stats.rate:.2f} photos/s")
    if stats.gradients_each is not None:
        pace.append(f"{stats.gradients_each:.1f} gradients a photo")
    console.say(f"  {', '.join(pace)}")


def duration(seconds: float) -> str:
    """Write a duration for people: ``8.3 s``, ``2 min 5 s``, ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _showed_target(record: Mapping[str, Any]) -> bool:
    """Tell whether each attacked network saw the target in the photo already."""
    networks = (record, *record["ensemble"])
    return record["error"] is None and all(seen["before"][0]["index"] == seen["target"]["index"] for seen in networks)


def _changes(record: Record) -> str:
    judges: list[NetworkRecord | CheckedRecord] = [*record.attacked, *record.answered]
    changes = [f"{seen.change}, by {seen.model}" if len(judges) > 1 else seen.change for seen in judges]
    return f"{record.source}: {'; '.join(changes)}; {record.gradients} gradients"


def _standing(stats: BatchStats) -> str:
    parts = [f"{stats.verified} verified"]
    if stats.failures:
        parts.append(f"{len(stats.failures)} failed")
    if stats.rate is not None and stats.seconds_left is not None:
        parts += [f"{stats.rate:.2f} photos/s", f"{duration(stats.seconds_left)} left"]
    return ", ".join(parts)


@contextmanager
def _show_progress(stats: BatchStats, console: Console, *, silent: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show how far a batch is while the context lasts; give what is to be called after each attack.

    Args:
        stats: counted before the call.
        console: to print on.
        silent: whether to name failures only.
    """
    last, failed = time.monotonic(), 0
    with console.moving_line(total=stats.total, done=stats.done, wanted=not silent) as move:

        def show(record: dict[str, Any]) -> None:
            nonlocal last, failed
            unanswered = [f"{record['source']}: {seen['error']}" for seen in record["checked"] if seen.get("error")]
            for error in [record["error"]] if record["error"] else unanswered:
                failed += 1
                if failed <= _FAILURES:
                    console.error(error)
                elif failed == _FAILURES + 1:
                    console.error(f"more than {_FAILURES} failed; summary.json has the reasons of all")
            if not record["error"] and console.verbose:
                console.detail(_changes(record_of(record)))
            if move is not None:
                move(stats.done, _standing(stats))
            elif not silent and time.monotonic() - last >= _PLAIN_EVERY:
                last = time.monotonic()
                console.say(f"{stats.done} of {stats.total}, {_standing(stats)}")

        if move is not None:
            move(stats.done, _standing(stats))
        yield show


@contextmanager
def _stop_on_signals() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Yield an event that asks for an end, and one that says that a signal asked for it."""
    stop, interrupted = threading.Event(), threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            end_programs()
            end_own_actors()
            os._exit(ExitCode.INTERRUPTED)
        interrupted.set()
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop, interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_line(line: str) -> None:
    try:
        click.echo(line)
    except BrokenPipeError:
        # Else Python would try again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError("stdout was closed; what is done is in the journal, the same command goes on") from None
