"""What people read: plain lines, tables and the progress line, all on stderr.

Rich decides about colour and movement: ``NO_COLOR``, ``TERM=dumb`` and whether stderr is a terminal.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from advimg.formatting import percent, printable
from advimg.labels import same_class

if TYPE_CHECKING:
    from advimg.engine.step_report import StepReport, Watcher
    from advimg.record import Answer, CheckedTarget, Prediction, Target
    from advimg.storage.url import Place


_LONGEST_NAME = 100
"""The most characters of a name in a table, or on a line that moves."""


class Console:
    """Says things to a person, as many as they asked for."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._rich = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._verbose = verbose and not quiet

    def say(self, text: str = "", style: str = "") -> None:
        """Print a line, unless quiet."""
        if not self._quiet:
            self._rich.print(Text(printable(text), style=style))

    def detail(self, text: str) -> None:
        """Print a line if asked to say more."""
        if self._verbose:
            self.say(text, style="dim")

    def warn(self, text: str) -> None:
        """Print a warning, unless quiet."""
        self.say(f"note: {text}", style="yellow")

    def error(self, text: str) -> None:
        """Print what went wrong with one of several inputs."""
        self._rich.print(Text(printable(f"advimg: {text}"), style="red"))

    @property
    def verbose(self) -> bool:
        """Whether more was asked for."""
        return self._verbose

    def predictions(
        self,
        columns: "Sequence[tuple[str, Sequence[Prediction | Answer]]]",
        *,
        target: "Target | CheckedTarget | None" = None,
    ) -> None:
        """Print top-5 lists beside each other, the target marked."""
        if self._quiet:
            return
        if len(columns) > 2:  # too many to stand side by side
            self._rich.print(_rows(columns, target))
            return
        table = _table(header=any(title for title, _ in columns))
        for title, _ in columns:
            table.add_column(Text(printable(title, _LONGEST_NAME)), no_wrap=True)
        for row in zip_longest(
            *(predictions for _, predictions in columns)
        ):  # a classifier may have fewer than five classes
            table.add_row(
                *(
                    "" if prediction is None else _prediction(prediction, marked=_is(prediction, target))
                    for prediction in row
                )
            )
        self._rich.print(table)

    @contextmanager
    def moving_line(self, *, total: int, done: int, wanted: bool) -> Iterator[Callable[[int, str], None] | None]:
        """Show a bar and a text that move while the context lasts; None where stderr is no terminal.

        What it gives is called with how many are done, and the text.
        """
        if not wanted or not self._moves:
            yield None
            return
        with self._bar("{task.completed}/{task.total}", "{task.fields[text]}") as progress:
            task = progress.add_task("", total=total, completed=done, text="")
            yield lambda done, text: progress.update(task, completed=done, text=text)

    @contextmanager
    def watching(self, target: str, steps: int) -> Iterator["Watcher | None"]:
        """Show a live line for one attack while the context lasts: step and confidence of the target."""
        if not self._moves:
            yield None
            return
        left, right = "step {task.fields[step]}/{task.fields[steps]}", "{task.percentage:5.1f} % {task.fields[target]}"
        with self._bar(left, right) as progress:
            task = progress.add_task("", total=1.0, step=0, steps=steps, target=printable(target, _LONGEST_NAME))

            def watch(report: "StepReport") -> None:
                progress.update(task, completed=report.confidence, step=report.step)

            yield watch

    @property
    def _moves(self) -> bool:
        return not self._quiet and self._rich.is_terminal and not self._rich.is_dumb_terminal

    def _bar(self, left: str, right: str) -> Progress:
        """Return a bar between two texts, which goes away at the end."""
        # Without rich's markup: a class may be called "cat [/indoor]".
        columns = (TextColumn(left, markup=False), BarColumn(bar_width=30), TextColumn(right, markup=False))
        return Progress(*columns, console=self._rich, transient=True)


def shown_path(path: "Place") -> str:
    """Return a path as a person wants it: from the current folder, if it is below that."""
    if not isinstance(path, Path):
        return str(path)
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _table(*, header: bool) -> Table:
    return Table(
        box=None, pad_edge=False, header_style="bold", padding=(0, 4 if header else 2, 0, 0), show_header=header
    )


def _rows(
    lists: "Sequence[tuple[str, Sequence[Prediction | Answer]]]", target: "Target | CheckedTarget | None"
) -> Table:
    """Lay lists of predictions out as one row each, the first three."""
    table = _table(header=False)
    table.add_column(no_wrap=True, min_width=max(len(title[:_LONGEST_NAME]) for title, _ in lists))
    for title, predictions in lists:
        cells = (_prediction(prediction, marked=_is(prediction, target), bar=False) for prediction in predictions[:3])
        table.add_row(Text(printable(title, _LONGEST_NAME), "bold"), *cells)
    return table


def _is(prediction: "Prediction | Answer", target: "Target | CheckedTarget | None") -> bool:
    """Tell whether a class is the target; where there are no indices, by its name."""
    if target is None:
        return False
    return same_class(prediction.name, target.name) if target.index is None else prediction.index == target.index


def _prediction(prediction: "Prediction | Answer", *, marked: bool, bar: bool = True) -> Text:
    confidence = "" if prediction.confidence is None else percent(prediction.confidence)
    if bar:
        blocks = "█" * round((prediction.confidence or 0) * 8)
        text = Text.assemble(f"{confidence:>8} ", (f"{blocks:<8}", "cyan"), " ")
    else:
        text = Text(f"{confidence} " if confidence else "")
    text.append(printable(prediction.name, _LONGEST_NAME))
    if marked:
        text.stylize("bold")
        text.append(" ←")
    return text
