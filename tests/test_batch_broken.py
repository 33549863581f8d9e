"""``advimg batch``: broken photos among good ones, full disks, and networks that cannot be used."""

import io
import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import advimg
from advimg.batches.journal import Journal
from advimg.classifiers.classifier import Classifier, Verdict
from advimg.classifiers.ensemble import Ensemble
from advimg.engine.job import Result
from advimg.errors import ClassifierError, DiskError, OutputError, PhotoError, UsageError
from advimg.images.photo import Photo
from advimg.outcome import Outcome, judge_result
from tests.batches import (
    COMMAND,
    assert_kept,
    assert_one_line,
    by_source,
    contents,
    key_of,
    no_attack,
    quick_classifier,
    records_of,
    save_photo,
    save_photos,
)
from tests.conftest import Cli, EveryModel, random_photo

pytestmark = pytest.mark.usefixtures("quick")


def _tiff(mode: str) -> Callable[[Path], object]:
    return lambda path: Image.new(mode, (24, 16), 7).save(path, "TIFF")


def _bytes(make: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        buffer = io.BytesIO()
        Image.fromarray(random_photo(24, 16).levels).save(buffer, "JPEG")
        path.write_bytes(make(buffer.getvalue()))

    return write


def _png_of(size: tuple[int, int]) -> Callable[[Path], object]:
    return lambda path: Image.new("1", size).save(path, "PNG")


_HEADER = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 24, 16, 8, 2, 0, 0, 0) + b"\0\0\0\0"

_BREAK: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "truncated": (_bytes(lambda data: data[: len(data) // 2]), "is damaged"),
    "head of a jpeg": (_bytes(lambda data: data[:20]), "not a picture|is damaged"),
    "text": (lambda path: path.write_text("hello"), "is not a picture"),
    "header of a png": (lambda path: path.write_bytes(_HEADER), "is damaged|not a picture"),
    "link to nowhere": (lambda path: path.symlink_to("nowhere"), "does not exist"),
    "too many pixels": (_png_of((1000, 501)), "more than the 500,000 allowed"),
    "floats": (_tiff("F"), "floating-point levels"),
    "32 bits": (_tiff("I"), "32-bit levels"),
    "long and thin": (_png_of((45000, 1)), "too long and thin"),
}


def test_forty_broken_photos_among_two_hundred(
    cli: Cli, tmp_path: Path, out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [save_photo(tmp_path / f"photos/{number:03}.jpg", number) for number in range(200)]
    (tmp_path / "photos/folder.jpg").mkdir()
    broken: dict[str, str] = {}
    kinds = list(_BREAK.values()) * 4
    for path, (harm, reason) in zip(random.Random(1).sample(photos, 40), kinds, strict=True):
        path.unlink()
        harm(path)
        broken[str(path)] = reason
    command = (*COMMAND, "--max-pixels", "500000")
    ran = cli(*command)
    assert ran.code == 1
    assert "160   80.0 %" in ran.err
    assert "and 30 more; summary.json has them all" in ran.err
    records = records_of(out)
    assert len(records) == 200
    assert sum(record["fooled"] for record in records) == 160
    failed = {record["source"]: record for record in records if record["error"] is not None}
    assert set(failed) == set(broken)
    for source, reason in broken.items():
        error = failed[source]["error"]
        assert any(part in error for part in reason.split("|")), error
        assert source in error
        assert f"advimg: {error}" in ran.err.splitlines()
        assert (failed[source]["outputs"], failed[source]["fooled"]) == ({}, False)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["verified"], summary["failed"]) == (160, 40)
    assert {failure["source"]: failure["error"] for failure in summary["failures"]} == {
        source: record["error"] for source, record in failed.items()
    }
    assert_kept(out, quick)

    before = contents(out)
    monkeypatch.setattr("advimg.batches.pipeline.Engine", no_attack)
    again = cli(*command)
    assert again.code == 1
    assert "200 of 200 were done by an earlier run" in again.err
    assert {name: data for name, data in contents(out).items() if name != "summary.json"} == {
        name: data for name, data in before.items() if name != "summary.json"
    }


def test_a_broken_photo_has_a_record_for_each_of_its_targets(cli: Cli, photos: list[Path], out: Path) -> None:
    photos[1].write_bytes(b"")
    ran = cli(*COMMAND, "-t", "1", "-t", "random")
    assert ran.code == 1
    failed = [record for record in records_of(out) if record["error"]]
    assert {key_of(record) for record in failed} == {(str(photos[1]), target, 10) for target in (3, 1, "random")}
    assert len(records_of(out)) == 12
    assert ran.err.count(f"  failed: {photos[1]} is empty") == 1


def test_nothing_but_broken_photos(cli: Cli, photos: list[Path], out: Path) -> None:
    for path in photos:
        path.write_text("hello")
    assert cli(*COMMAND).code == 1
    assert len(records_of(out)) == 4
    assert set(contents(out)) == {"results.jsonl", "results.csv", "summary.json"}


def test_a_photo_that_memory_has_no_room_for_does_not_stop_the_others(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Path.read_bytes

    def read_bytes(self: Path) -> bytes:
        if self == photos[1]:
            raise MemoryError
        return honest(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert cli(*COMMAND).code == 1
    assert [name for name, record in by_source(out).items() if record["error"]] == ["p01.jpg"]
    assert sum(record["fooled"] for record in records_of(out)) == 3


def test_a_name_too_long_for_its_results_is_cut(cli: Cli, photos: list[Path], out: Path) -> None:
    photos[0].rename(photos[0].with_name("x" * 250 + ".jpg"))
    assert cli(*COMMAND).code == 0
    assert sum(record["fooled"] for record in records_of(out)) == 4
    assert max(len(path.name) for path in out.iterdir()) <= 255


@pytest.mark.parametrize("line", ["y" * 300, "a\0b.jpg", "a\0b/c.jpg", "a\0b.png"])
def test_an_impossible_path_in_a_list_does_not_stop_the_others(
    cli: Cli, photos: list[Path], tmp_path: Path, out: Path, line: str
) -> None:
    (tmp_path / "list.txt").write_text(f"{line}\nphotos/p00.jpg\n")
    assert cli("batch", "--from-file", "list.txt", "-t", "3", "-O", "out").code == 1
    assert sum(record["fooled"] for record in records_of(out)) == 1
    assert len(records_of(out)) == 2


def test_a_file_where_a_folder_should_be_fails_its_photos_only(cli: Cli, tmp_path: Path, out: Path) -> None:
    for name in ("a.jpg", "sub/b.jpg"):
        save_photo(tmp_path / "photos" / name)
    out.mkdir()
    (out / "sub").write_text("mine")
    ran = cli(*COMMAND, "-r")
    assert ran.code == 1
    assert "sub" in ran.err
    assert sum(record["fooled"] for record in records_of(out)) == 1
    assert (out / "sub").read_text() == "mine"


def test_a_disk_without_room_for_a_folder_stops_the_run(
    cli: Cli, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, quick: Classifier
) -> None:
    """Otherwise the journal would hold the photos as failed, and the next run would pass them over."""
    for number in range(6):
        save_photo(tmp_path / f"photos/{number}/a.jpg", number)
    honest = Path.mkdir

    def mkdir(self: Path, *arguments: Any, **options: Any) -> None:
        if self.parent == out and self.name >= "3":
            raise OSError(28, "No space left on device", str(self))
        honest(self, *arguments, **options)

    command = (*COMMAND, "-r", "--batch-size", "1")
    with monkeypatch.context() as full:
        full.setattr(Path, "mkdir", mkdir)
        ran = cli(*command)
    assert_one_line(ran, 1, "No space left on device", "3 of 6 are done", "run the same command again")
    assert all(record["fooled"] for record in records_of(out))
    assert cli(*command).code == 0
    assert_kept(out, quick)
    assert len(records_of(out)) == 6


def test_a_disk_that_takes_no_more_is_not_worked_for(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_photos(tmp_path / "photos", 40)
    looked: list[str] = []
    judge = Classifier.judge_photo

    def look(self: Classifier, photo: Photo) -> Verdict:
        looked.append(photo.source)
        return judge(self, photo)

    def full(*arguments: object) -> None:
        raise DiskError("the disk is full")

    monkeypatch.setattr(Classifier, "judge_photo", look)
    monkeypatch.setattr(Journal, "append", full)
    assert_one_line(cli(*COMMAND, "--batch-size", "1"), 1, "the disk is full; 0 of 40 are done")
    assert len(looked) < 20


def test_a_network_that_is_no_classifier_is_one_line_whatever_the_number_of_photos(
    cli: Cli, photos: list[Path], out: Path, every_model: EveryModel
) -> None:
    odd = Classifier.wrap(
        torch.nn.Flatten(), labels=["a"], mean=(0, 0, 0), std=(1, 1, 1), resize=8, crop=8, device="cpu"
    )
    every_model(odd)
    ran = cli("batch", "photos", "-t", "a", "-O", "out")
    assert_one_line(ran, 1, "Flatten returns a tensor [1, 192]", "one logit for each of 1 labels")
    assert not out.exists()


def test_a_run_that_cannot_begin_leaves_no_folder_that_it_made(
    cli: Cli, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> Any:
        raise ClassifierError("device cuda: torch finds no GPU here")

    (tmp_path / "mine").mkdir()
    monkeypatch.setattr("advimg.classifiers.load.load_classifier", refuse)
    assert_one_line(cli(*COMMAND[:-1], "mine/a/b"), 1, "no GPU")
    assert list((tmp_path / "mine").iterdir()) == []


# What goes wrong with one photo after it was read is that photo's failure, too.


def _with_profile(path: Path, size: int) -> Path:
    profile = bytearray(random.Random(3).randbytes(size))
    profile[16:20] = b"RGB "
    Image.fromarray(random_photo(24, 16).levels).save(path, icc_profile=bytes(profile))
    return path


def test_a_profile_that_no_png_can_be_reopened_with_is_left_out(cli: Cli, photos: list[Path], out: Path) -> None:
    _with_profile(photos[1], (1 << 20) + 1)
    _with_profile(photos[2], 1 << 20)
    assert cli(*COMMAND).code == 0
    for name, kept in (("p01_class_3.png", False), ("p02_class_3.png", True)):
        with Image.open(out / name) as image:
            assert ("icc_profile" in image.info) == kept
    ran = cli("attack", photos[1], "-t", "3", "--no-figure")
    assert ran.code == 0
    assert f"note: {photos[1]}: its colour profile is larger than 1 MiB" in ran.err


@pytest.mark.parametrize(
    "error", [PhotoError("odd"), ClassifierError("odd"), OutputError("odd"), MemoryError()], ids=str
)
def test_files_that_cannot_be_made_are_their_photo_s_failure(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    honest = Outcome.png

    def png(self: Outcome, **options: Any) -> bytes:
        if self.photo.source == str(photos[1]):
            raise error
        return honest(self, **options)

    with monkeypatch.context() as broken:
        broken.setattr(Outcome, "png", png)
        assert cli(*COMMAND).code == 1
    assert_kept(out, quick)
    assert {name: record["error"] is None for name, record in by_source(out).items()} == {
        "p00.jpg": True,
        "p01.jpg": False,
        "p02.jpg": True,
        "p03.jpg": True,
    }
    assert cli(*COMMAND, "--retry-failed").code == 0
    assert_kept(out, quick)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory."), UsageError("no such class")], ids=str
)
def test_a_network_that_only_judges_fails_single_photos(
    photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def judge(result: Result, ensemble: Ensemble) -> Any:
        if result.job.photo.source == str(photos[2]):
            raise error
        return judge_result(result, ensemble)

    monkeypatch.setattr("advimg.batches.pipeline.judge_result", judge)
    stats = advimg.batch(
        photos, 3, out_dir=out, model=quick_classifier(), check_on=[quick_classifier(seed=1)], perturbation=False
    )
    assert (stats.verified, len(stats.failures)) == (3, 1)
    assert [name for name, record in by_source(out).items() if record["error"]] == ["p02.jpg"]


def test_an_error_that_is_no_photo_s_ends_the_run(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> Any:
        raise RuntimeError("a mistake in the program")

    monkeypatch.setattr(Outcome, "png", refuse)
    ran = cli(*COMMAND)
    assert ran.code == 1
    assert "a mistake in the program" in ran.err
    assert not (out / "results.jsonl").exists()


class _Denied:
    """A file system that does not let files be put in their place: the first of them, or all from the first on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, only_the_first: bool) -> None:
        self._denied = 0
        for name in ("replace", "hardlink_to"):
            monkeypatch.setattr(Path, name, self._refusing(getattr(Path, name), only_the_first=only_the_first))

    def _refusing(self, honest: Callable[..., Any], *, only_the_first: bool) -> Callable[..., Any]:
        def refuse(path: Path, *arguments: Any) -> Any:
            if not any(Path(each).suffix == ".png" for each in (path, *arguments)) or (self._denied and only_the_first):
                return honest(path, *arguments)
            self._denied += 1
            raise PermissionError(13, "Permission denied", str(path))

        return refuse


def test_a_file_that_may_not_be_written_is_its_photo_s_failure(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as denied:
        _Denied(denied, only_the_first=True)
        ran = cli(*COMMAND)
    assert ran.code == 1
    assert "Permission denied" in ran.err
    assert sum(record["fooled"] for record in records_of(out)) == 3
    assert_kept(out, quick)


def test_a_folder_that_may_not_be_written_to_any_longer_ends_the_run(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as denied:
        _Denied(denied, only_the_first=False)
        denied.setattr(os, "access", lambda *_, **__: False)
        assert_one_line(cli(*COMMAND), 1, "Permission denied", "0 of 4 are done")
    assert cli(*COMMAND).code == 0
    assert_kept(out, quick)
