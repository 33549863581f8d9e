"""A batch under the eyes of a person: one moving line on a terminal, plain lines elsewhere, a table at the end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from advimg.batch.stats import BatchStats
from advimg.cli.console import Console, shown_path
from advimg.record import Record

_PLAIN_EVERY = 10
"""Seconds between two plain lines."""
_REASONS = 10
"""How many failures the table at the end names."""

Follower = Callable[[dict[str, Any]], None]


@contextmanager
def show_progress(stats: BatchStats, console: Console, *, silent: bool) -> Iterator[Follower]:
    """Show how far a batch is while the context lasts; give what is to be called after each attack.

    Args:
        stats: counted before the call.
        console: where to.
        silent: whether to name failures only.
    """
    last = time.monotonic()
    with console.moving_line(total=stats.total, done=stats.done, wanted=not silent) as move:

        def follow(record: dict[str, Any]) -> None:
            nonlocal last
            if record["error"]:
                console.error(record["error"])
            elif console.verbose:
                console.detail(_changes(Record.from_dict(record)))
            if move is not None:
                move(stats.done, _standing(stats))
            elif not silent and time.monotonic() - last >= _PLAIN_EVERY:
                last = time.monotonic()
                console.say(f"{stats.done} of {stats.total}, {_standing(stats)}")

        if move is not None:
            move(stats.done, _standing(stats))
        yield follow


def print_summary(stats: BatchStats, folder: Path, console: Console) -> None:
    """Say what became of a batch."""
    console.say(f"{stats.done} of {stats.total} attacks, in {shown_path(folder)}", "bold")
    rows = [("verified", stats.verified), ("not reached", stats.not_reached), ("failed", len(stats.failures))]
    rows += [(f"fool {name}", count) for name, count in stats.checked.items()]
    wide = max(12, *(len(name) + 1 for name, _ in rows))
    for name, count in rows:
        share = f"{count / stats.done:8.1%}".replace("%", " %") if stats.done else ""
        console.say(f"  {name:<{wide}}{count:>7}{share}")
    reasons = list(dict.fromkeys(error for _, error in stats.failures))  # once for a photo with several targets
    for reason in reasons[:_REASONS]:
        console.say(f"  failed: {reason}", "red")
    if len(reasons) > _REASONS:
        console.say(f"  and {len(reasons) - _REASONS} more; summary.json has them all", "red")
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


def _changes(record: Record) -> str:
    networks = (*record.attacked, *record.checked)
    changes = [f"{seen.change}, by {seen.model}" if len(networks) > 1 else seen.change for seen in networks]
    return f"{record.source}: {'; '.join(changes)}; {record.gradients} gradients"


def _standing(stats: BatchStats) -> str:
    parts = [f"{stats.verified} verified"]
    if stats.failures:
        parts.append(f"{len(stats.failures)} failed")
    if stats.rate is not None and stats.seconds_left is not None:
        parts += [f"{stats.rate:.2f} photos/s", f"{duration(stats.seconds_left)} left"]
    return ", ".join(parts)
