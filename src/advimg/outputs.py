"""The files that an attack writes, and their names."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from advimg.errors import OutputError, UsageError
from advimg.formatting import bounded
from advimg.storage.places import check_output, is_same_file, read_beginning, read_bytes
from advimg.storage.url import Place, path_or_url

REPORT_MARK = '<meta name="generator" content="advimg '
"""What the ``index.html`` of a report has near its beginning, so that it is known as one."""

LONGEST_STEM = 200
"""The most bytes of a photo's and a target's part of a file's name, which has at most 255 with what follows them."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The paths of one attack's files; None for those not wanted."""

    adversarial: Place
    perturbation: Place | None
    figure: Place | None
    trace: Place | None = None

    def __iter__(self) -> Iterator[tuple[str, Place]]:
        """Yield the record's key and the path of each file that is wanted."""
        for key in ("adversarial", "perturbation", "figure", "trace"):
            path = getattr(self, key)
            if path is not None:
                yield key, path

    def check(self, *, overwrite: bool, photo: Place) -> None:
        """Find out before the work whether all files can be written after it.

        Raises:
            OutputError: one cannot, or is the photo itself.
        """
        for _, path in self:
            check_output(path, overwrite=overwrite)
            if is_same_file(path, photo):
                raise OutputError(f"{path} is the photo itself; give the output another name")


def plan_outputs(adversarial: Place, *, figure: bool, perturbation: bool = True, trace: Place | None = None) -> Outputs:
    """Name the files that go with an adversarial PNG: ``dog_pelican.png`` has ``dog_pelican_figure.png`` beside it.

    The trace has a name of its own.

    Raises:
        UsageError: a name does not end as it must.
    """
    adversarial = png_path(adversarial)
    stem = adversarial.with_suffix("")
    return Outputs(
        adversarial,
        stem.with_name(f"{stem.name}_perturbation.png") if perturbation else None,
        stem.with_name(f"{stem.name}_figure.png") if figure else None,
        None if trace is None else trace_path(trace),
    )


def default_name(source: str, target_slug: str) -> str:
    """Return the file name for a photo and a target: ``photos/dog.jpg``, ``pelican`` -> ``dog_pelican.png``."""
    return f"{bounded(f'{Path(source).stem}_{target_slug}', LONGEST_STEM)}.png"


def png_path(path: str | Place) -> Place:
    """Return ``path`` if it names a PNG.

    Raises:
        UsageError: it does not; JPEG and WebP would change the pixels that were verified.
    """
    path = path_or_url(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: the output must be a .png; other formats would change the pixels that were verified")
    return path


def is_summary(path: Place) -> bool:
    """Tell whether a file is the JSON summary of a batch or a sweep."""
    try:
        return "advimg" in json.loads(read_bytes(path))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def is_report(folder: Place) -> bool:
    """Tell whether a folder holds a report, whose small pictures are no photos."""
    try:
        return REPORT_MARK.encode() in read_beginning(folder / "index.html", 512)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False


def trace_path(path: str | Place) -> Place:
    """Return ``path`` if it names an animation.

    Raises:
        UsageError: it does not.
    """
    path = path_or_url(path)
    if str(path) == "-":
        raise UsageError("a trace is not written to stdout; give --trace a file name, like steps.webp")
    if path.suffix.lower() not in (".webp", ".gif"):
        raise UsageError(f"{path}: a trace must be a .webp or a .gif")
    return path
