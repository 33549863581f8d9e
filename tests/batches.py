"""Shared by the tests of batches: tiny photos, a classifier that is quick to fool, journals read back."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from advimg.batches.executor import InProcess
from advimg.batches.journal import Journal
from advimg.batches.options import Options
from advimg.batches.plan import Files, each_target
from advimg.batches.run import Batch
from advimg.batches.stats import BatchStats
from advimg.classifiers.classifier import Classifier
from advimg.engine.job import Job
from advimg.settings import Settings
from tests.conftest import Ran, linear_classifier, random_photo

EPS = 10
CLASSES = 6
COMMAND = ("batch", "photos", "-t", "3", "-O", "out")
"""The command that most tests run."""
NEVER = Settings(confidence=0.999999, steps=5)
"""Settings that a small linear network never satisfies: every attack takes six passes."""


def quick_classifier(*, classes: int = CLASSES, seed: int = 0) -> Classifier:
    """Return a linear network that shows any target class after a few steps, within 10 levels."""
    return linear_classifier(classes=classes, size=64, seed=seed, scale=0.05)


def wrapped(network: torch.nn.Module, classes: int = 4, *, resize: int = 8) -> Classifier:
    """Return a classifier of a network that takes 8 x 8 pixels."""
    half = (0.5, 0.5, 0.5)
    labels = [str(index) for index in range(classes)]
    return Classifier.wrap(network, labels=labels, mean=half, std=half, resize=resize, crop=8, device="cpu")


def noise_jobs(count: int, settings: Settings | None = None) -> list[Job]:
    """Return jobs on photos of noise, of several sizes, with several target classes and eps."""
    return [
        Job(
            photo=random_photo(8 + seed, 12, seed),
            target=seed % 4,
            settings=settings or Settings(eps=3 + seed % 3, confidence=0.6, steps=10),
        )
        for seed in range(count)
    ]


def write(path: Path, data: bytes = b"x") -> Path:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def save_photo(path: Path, seed: int = 0, *, size: tuple[int, int] = (24, 16)) -> Path:
    """Write a photo of noise, in the format that its name asks for, and the folders above it.

    It is an hour old: of a photo that was changed this moment the journal has no stamp, and the next run adds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_photo(*size, seed).levels).save(path)
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def save_photos(folder: Path, count: int) -> list[Path]:
    """Write photos p00.jpg, p01.jpg, ..."""
    return [save_photo(folder / f"p{number:02}.jpg", number) for number in range(count)]


def records_of(folder: Path) -> list[dict[str, Any]]:
    """Read a journal, every line of which must be whole, with absolute paths."""
    text = (folder / "results.jsonl").read_text(encoding="ascii")
    assert text.endswith("\n") or not text
    return [absolute_paths(json.loads(line), folder) for line in text.splitlines()]


def absolute_paths(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a line of a folder's journal with absolute paths; in the journal all are relative to the folder."""
    paths = [record["source"], *record["outputs"].values()]
    assert not any(map(os.path.isabs, paths))
    source, *outputs = (os.path.normpath(folder / path) for path in paths)
    return record | {"source": source, "outputs": dict(zip(record["outputs"], outputs, strict=True))}


def journal_lines(folder: Path) -> list[bytes]:
    """Return the whole lines of a journal, whose last line may be torn; none if there is no journal."""
    path = folder / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith(b"\n")]


def code_of(records: Iterable[Mapping[str, Any]]) -> int:
    """Return the exit code of a batch with these records."""
    ended = list(records)
    if any(record["error"] for record in ended):
        return 1
    return 0 if all(record["fooled"] for record in ended) else 3


def by_source(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records of a folder by the name of their photo."""
    return {Path(record["source"]).name: record for record in records_of(folder)}


def key_of(record: dict[str, Any]) -> tuple[Any, ...]:
    """Return the identity of an attack."""
    return record["source"], record["target_rule"] or record["target"]["index"], record["eps"]


def sha256(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files in a folder and below it, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pictures(folder: Path) -> dict[str, bytes]:
    """Return the PNGs in a folder and below it."""
    return {name: data for name, data in contents(folder).items() if name.endswith(".png")}


def assert_one_line(ran: Ran, code: int, *parts: str) -> None:
    """Check that a command printed one line on stderr, with these parts."""
    assert (ran.code, ran.out) == (code, "")
    (line,) = ran.err.splitlines()
    assert line.startswith("advimg: ")
    for part in parts:
        assert part in line


def no_attack(*arguments: object, **options: object) -> Any:
    """Stand for the engine where no attack is left to make."""
    raise AssertionError("no attack is left to make")


def assert_kept(folder: Path, classifier: Classifier) -> None:
    """Check a folder of results: its files are those of its journal, and each keeps the promise.

    No hidden file and no temporary one is left, no attack is in the journal twice.
    """
    records = records_of(folder)
    assert len({key_of(record) for record in records}) == len(records)
    named = {folder / name for name in ("results.jsonl", "results.csv", "summary.json")}
    for record in records:
        outputs = {Path(path) for path in record["outputs"].values()}
        assert not named & outputs
        named |= outputs
        if record["error"] is None:
            _assert_promise(record, classifier)
    assert {path for path in folder.rglob("*") if not path.is_dir()} == named


def _assert_promise(record: dict[str, Any], classifier: Classifier) -> None:
    path = Path(record["outputs"]["adversarial"])
    assert record["adversarial_sha256"] == sha256(path)
    with Image.open(path) as image, Image.open(record["source"]) as photo:
        levels, original = np.asarray(image.convert("RGB")), np.asarray(photo.convert("RGB"))
    assert np.abs(levels.astype(int) - original).max() <= record["eps"]
    assert record["fooled"] == (classifier.judge(levels).top1 == record["target"]["index"])


def attack_all(
    photos: Sequence[Path],
    folder: Path,
    classifier: Classifier,
    *,
    ended: Callable[[BatchStats], None] | None = None,
    target: int = 1,
    retry_failed: bool = False,
) -> BatchStats:
    """Attack photos of one folder in this process, without the command line, and return the counts.

    Args:
        photos: in one folder.
        folder: for the outputs.
        classifier: the one to attack.
        ended: called after each attack, one at a time.
        target: the target class of all photos.
        retry_failed: whether attacks that failed in an earlier run are made again.
    """
    files = Files(folder=folder, root=photos[0].parent)
    with Journal.opened(folder) as journal:
        keys = each_target(photos, [target], EPS)
        options = Options(settings=Settings(), retry_failed=retry_failed)
        batch = Batch(keys, files, InProcess([classifier]), journal, options)
        batch.run(stop=threading.Event(), ended=lambda _: ended(batch.stats) if ended else None)
        return batch.stats


def open_descriptors() -> int | None:
    """Return how many files this process holds open; None where the system does not tell."""
    for place in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(place):  # noqa: PTH112
            return len(os.listdir(place))  # noqa: PTH208
    return None
