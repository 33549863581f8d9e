"""The counts of a batch."""

import json
from pathlib import Path

import pytest

from advimg.batches.journal_entry import Entry
from advimg.batches.plan import Key
from advimg.batches.stats import BatchStats


def _entry(source: str, *, fooled: bool, error: str | None, gradients: int, delta_e: float | None = None) -> Entry:
    """Return the entry of an attack; its files are of no interest here."""
    return Entry(
        key=Key(Path(source), 0, 10),
        source_sha256=None,
        files=(),
        tried_with=None,
        settings={},
        error=error,
        fooled=fooled,
        gradients=gradients,
        checked={},
        delta_e=delta_e,
    )


def _some_stats() -> BatchStats:
    stats = BatchStats(6)
    stats.add(_entry("a", fooled=True, error=None, gradients=4, delta_e=0.25), earlier=True)
    stats.add(_entry("b", fooled=True, error=None, gradients=6, delta_e=0.5))
    stats.add(_entry("c", fooled=False, error=None, gradients=101))
    stats.add(_entry("d", fooled=False, error="broken", gradients=0))
    return stats


def test_a_tally_counts() -> None:
    stats = _some_stats()
    assert (stats.done, stats.verified, stats.not_reached, stats.earlier, stats.gradients) == (4, 2, 1, 1, 111)
    assert stats.failures == [("d", "broken")]
    assert stats.gradients_each == 37
    assert stats.delta_e_mean == 0.375


def test_the_pace_is_that_of_this_run_s_results() -> None:
    """Failures take no time, and would promise too much."""
    stats = _some_stats()
    stats.end()
    assert stats.rate == pytest.approx(2 / stats.seconds)
    assert stats.seconds_left == pytest.approx(2 * stats.seconds / 2)
    spent = stats.seconds
    assert stats.seconds == spent
    stats.start()
    stats.end()
    assert stats.seconds < spent


def test_nothing_tells_the_pace_before_the_first() -> None:
    stats = BatchStats(2)
    assert (stats.rate, stats.seconds_left, stats.gradients_each, stats.exit_code) == (None, None, None, 0)
    assert stats.delta_e_mean is None
    stats.add(_entry("a", fooled=True, error=None, gradients=4), earlier=True)
    assert stats.rate is None


@pytest.mark.parametrize(
    ("ends", "code"),
    [([(True, None)], 0), ([(True, None), (False, None)], 3), ([(False, None), (False, "x"), (True, None)], 1)],
)
def test_the_exit_code_tells_the_worst(ends: list[tuple[bool, str | None]], code: int) -> None:
    stats = BatchStats(len(ends))
    for fooled, error in ends:
        stats.add(_entry("a", fooled=fooled, error=error, gradients=1))
    assert stats.exit_code == code


def test_the_summary_holds_what_was_asked_and_what_came_of_it() -> None:
    summary = _some_stats().summary({"eps": 10, "model": "m"})
    assert list(summary) == [
        *("eps", "model", "total", "verified", "not_reached", "failed", "checked_fooled"),
        *("unfinished", "earlier", "seconds", "per_second", "gradients_each", "delta_e_mean", "failures", "unanswered"),
    ]
    counts = [summary[name] for name in ("total", "verified", "not_reached", "failed", "unfinished", "earlier")]
    assert counts == [6, 2, 1, 1, 2, 1]
    assert summary["delta_e_mean"] == 0.375
    assert summary["failures"] == [{"source": "d", "error": "broken"}]
    assert json.loads(json.dumps(summary)) == summary
