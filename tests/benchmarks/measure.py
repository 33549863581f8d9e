"""What the benchmarks share: the machine, median and spread, turns, child processes, plain tables.

Only the standard library and click: a process that measures the memory of its children must be small itself.
"""

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import click

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")
_Name = TypeVar("_Name")
_PACKAGES = ("torch", "torchvision", "pillow", "click")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some measurements, and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Sum up at least one measurement."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def text(self, digits: int) -> str:
        """Return ``median (lower quartile - upper quartile)``."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} - {self.high:.{digits}f})"


@dataclass(frozen=True, slots=True)
class Finished:
    """A child process that has ended.

    Attributes:
        seconds: from its start to its end.
        peak: the most memory it held, in bytes; None where this process is larger, for then it cannot be told.
        exit_code: as the child gave it.
        stdout: what it printed.
    """

    seconds: float
    peak: int | None
    exit_code: int
    stdout: bytes


def run_process(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, expect: Collection[int] = (0,)
) -> Finished:
    """Run a child process to its end.

    Args:
        command: the program and its arguments.
        env: variables on top of this process's own.
        expect: the exit codes that are right.

    Raises:
        ClickException: the child ended with another exit code; the message holds what it printed to stderr.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        began = time.perf_counter()
        child = subprocess.Popen(
            command, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode not in expect:
            stderr.seek(0)
            said = stderr.read().decode(errors="replace").strip()
            raise click.ClickException(f"{' '.join(command)} ended with exit code {child.returncode}: {said}")
        stdout.seek(0)
        return Finished(seconds, _peak(usage.ru_maxrss), child.returncode, stdout.read())


def in_turns(contenders: Mapping[_Name, Callable[[], float]], rounds: int) -> dict[_Name, list[float]]:
    """Call every contender once a round, after one round that does not count.

    Whatever slows the machine for a while slows all of them, so the ratios within a round stay true. Every other
    round goes backwards, so that none of them always follows the same one.

    Args:
        contenders: each returns what it measured.
        rounds: how many measurements of each to take.
    """
    for measure in contenders.values():
        measure()
    measured: dict[_Name, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name in list(contenders)[:: 1 if turn % 2 == 0 else -1]:
            measured[name].append(contenders[name]())
    return measured


def settle(device: "torch.device") -> None:
    """Wait until the device has done what it was given, for GPUs work on after the call."""
    import torch  # who has a device has imported it already

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Stopwatch:
    """Collects seconds under names.

    Args:
        device: what is timed runs there.
    """

    def __init__(self, device: "torch.device") -> None:
        self._device = device
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def time(self, name: str, action: Callable[[], _T], repeats: int = 1) -> _T:
        """Call ``action`` and note how long it took; return what it gave last."""
        for _ in range(repeats):
            settle(self._device)
            began = time.perf_counter()
            given = action()
            settle(self._device)
            self.seconds[name].append(time.perf_counter() - began)
        return given


def ratios(values: Sequence[float], base: Sequence[float]) -> Spread:
    """Return the spread of the ratios within each round."""
    return Spread.of([value / other for value, other in zip(values, base, strict=True)])


def print_machine() -> None:
    """Print what this is measured on, and when."""
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    click.echo(f"{_cpu_model()}, {_cores()} cores, {platform.system()} {platform.machine()}")
    click.echo(f"Python {platform.python_version()}, {versions}")
    click.echo(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load average {os.getloadavg()[0]:.1f} at the start")


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of plain text: the first column to the left, all others to the right."""
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, tuple("-" * width for width in widths))
    click.echo(f"\n{title}\n")
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        click.echo("  ".join(cells).rstrip())


def progress(text: str) -> None:
    """Tell on stderr what is being measured, for whoever waits."""
    click.echo(text, err=True)


def advimg_command() -> list[str]:
    """Return how to start this interpreter's ``advimg``: its script, or the module where there is no script."""
    script = Path(sys.executable).with_name("advimg")
    return [str(script)] if script.exists() else [sys.executable, "-m", "advimg"]


def _peak(maxrss: int) -> int | None:
    # Between fork and exec a child counts its parent's memory as its own, and Linux keeps that maximum.
    if maxrss <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
        return None
    return maxrss if sys.platform == "darwin" else maxrss * 1024


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
