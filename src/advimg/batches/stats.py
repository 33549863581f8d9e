"""The results of a batch so far: counts, reasons, exit code."""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from advimg.batches.journal_entry import Entry
from advimg.errors import ExitCode
from advimg.report.accuracy import Accuracy

SUMMARY = "summary.json"
"""The sum of a batch, in its folder."""


@dataclass(slots=True)
class BatchStats:
    """Counts the attacks that have ended; safe to use from several threads.

    Attributes:
        total: the number of attacks.
        verified: those whose file shows the target.
        not_reached: those whose file is the best attempt.
        failures: the photo and the reason of each that failed.
        earlier: those of an earlier run.
        fresh: those of this run, without those that failed.
        gradients: passes through the network, all together.
        delta_es: the mean ΔE of each file of which it was measured.
        checked: the number of files that fool each network or program that was not attacked, by its name.
        unanswered: the photo, and the reason of each program that gave no answer on a file.
        accuracies: of each network, on the photos whose true class is known; counted at the end.
    """

    total: int
    verified: int = 0
    not_reached: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    earlier: int = 0
    fresh: int = 0
    gradients: int = 0
    delta_es: list[float] = field(default_factory=list, repr=False)
    checked: Counter[str] = field(default_factory=Counter)
    unanswered: list[tuple[str, str]] = field(default_factory=list)
    accuracies: list[Accuracy] = field(default_factory=list)
    _began: float = field(default_factory=time.perf_counter, repr=False)
    _ended: float | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, entry: Entry, *, earlier: bool = False) -> None:
        """Count an attack of this run, or of an earlier one."""
        with self._lock:
            self.checked.update(entry.checked)
            self.unanswered += [(str(entry.key.source), error) for error in entry.unanswered.values()]
            self.earlier += earlier
            self.fresh += not earlier and entry.error is None
            self.gradients += entry.gradients
            if entry.delta_e is not None:
                self.delta_es.append(entry.delta_e)
            if entry.error is not None:
                self.failures.append((str(entry.key.source), entry.error))
            elif entry.fooled:
                self.verified += 1
            else:
                self.not_reached += 1

    def start(self) -> None:
        """Begin to count the seconds."""
        self._began = time.perf_counter()

    def end(self) -> None:
        """Stop counting the seconds."""
        self._ended = time.perf_counter()

    @property
    def done(self) -> int:
        """The number of attacks that have ended."""
        return self.verified + self.not_reached + len(self.failures)

    @property
    def seconds(self) -> float:
        """The seconds of this run, from its first pass to its last file."""
        return (self._ended or time.perf_counter()) - self._began

    @property
    def rate(self) -> float | None:
        """Attacks a second in this run; None before the first."""
        return self.fresh / self.seconds if self.fresh and self.seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """The seconds that the rest will take; None before the first."""
        return (self.total - self.done) / self.rate if self.rate else None

    @property
    def gradients_each(self) -> float | None:
        """Passes through the network for each that did not fail, on average."""
        ended = self.verified + self.not_reached
        return self.gradients / ended if ended else None

    @property
    def delta_e_mean(self) -> float | None:
        """The mean ΔE of the files, on average; None where none was measured."""
        return sum(self.delta_es) / len(self.delta_es) if self.delta_es else None

    @property
    def exit_code(self) -> ExitCode:
        """OK if all are verified, else FAILED (some, or a program, failed) or NOT_REACHED (some were not reached)."""
        if self.failures or self.unanswered:
            return ExitCode.FAILED
        return ExitCode.NOT_REACHED if self.not_reached else ExitCode.OK

    def summary(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return plain JSON values for ``summary.json``."""
        return {
            **asked,
            "total": self.total,
            "verified": self.verified,
            "not_reached": self.not_reached,
            "failed": len(self.failures),
            "checked_fooled": dict(self.checked),
            "unfinished": self.total - self.done,
            "earlier": self.earlier,
            "seconds": round(self.seconds, 3),
            "per_second": None if self.rate is None else round(self.rate, 3),
            "gradients_each": None if self.gradients_each is None else round(self.gradients_each, 2),
            "delta_e_mean": None if self.delta_e_mean is None else round(self.delta_e_mean, 3),
            "failures": [{"source": source, "error": error} for source, error in self.failures],
            "unanswered": [{"source": source, "error": error} for source, error in self.unanswered],
            **({"accuracies": [each.to_dict() for each in self.accuracies]} if self.accuracies else {}),
        }
