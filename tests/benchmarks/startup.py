"""How long the commands take that need no network, against the interpreter with nothing but click.

Measures whole processes: ``advimg --help``, ``advimg labels pelican`` and the shell's completion of a class name. Each
run is one of a pair with ``python -c "import click"`` on the same interpreter. The goal is a ratio of at most 2.5.

    python -m tests.benchmarks startup
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import click

from tests.benchmarks.measure import Spread, advimg_command, in_turns, print_machine, print_table, ratios, run_process

_BASE = 'python -c "import click"'


@dataclass(frozen=True)
class _Case:
    """A command, and a word that its output must hold if it does what it should."""

    name: str
    command: Sequence[str]
    word: bytes
    env: Mapping[str, str] = field(default_factory=dict)

    def seconds(self) -> float:
        """Run the command once and return how long it took."""
        finished = run_process(self.command, env=self.env)
        if self.word not in finished.stdout:
            raise click.ClickException(f"{self.name} does not print {self.word.decode()!r}")
        return finished.seconds


@click.command()
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(1), help="Pairs of runs.")
def benchmark(rounds: int) -> None:
    """Time --help, labels and completion as ratios to importing click."""
    print_machine()
    base = _Case(_BASE, [sys.executable, "-c", "import click"], word=b"")
    rows = [_row(case, base, rounds) for case in _cases()]
    print_table(
        f"Start-up of `{' '.join(advimg_command())}`, median (quartiles) of {rounds} pairs; goal: ratio at most 2.5",
        ("command", "ms", "ms of importing click", "ratio"),
        rows,
    )


def _cases() -> list[_Case]:
    advimg = advimg_command()
    completion = {"_ADVIMG_COMPLETE": "bash_complete", "COMP_WORDS": "advimg attack -t pel", "COMP_CWORD": "3"}
    return [
        _Case("advimg --help", [*advimg, "--help"], word=b"attack"),
        _Case("advimg labels pelican", [*advimg, "labels", "pelican"], word=b"pelican"),
        _Case("completion of -t pel", advimg, word=b"pelican", env=completion),
    ]


def _row(case: _Case, base: _Case, rounds: int) -> tuple[str, str, str, str]:
    measured = in_turns({"case": case.seconds, "base": base.seconds}, rounds)
    milliseconds = {name: Spread.of([1000 * value for value in values]) for name, values in measured.items()}
    ratio = ratios(measured["case"], measured["base"])
    return case.name, milliseconds["case"].text(0), milliseconds["base"].text(0), ratio.text(2)
