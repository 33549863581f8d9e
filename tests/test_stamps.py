"""By which stamps a later run knows that files have not changed, and when it reads them all the same."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advimg.batches.journal_files import sha256_or_none
from advimg.batches.stamps import stamp_before_reading, stamp_of, stamp_of_written
from tests.batches import COMMAND, assert_kept, contents, no_attack, quick_classifier, records_of, sha256, write
from tests.conftest import Cli

OLD = 1_700_000_000_123_456_789
"""Nanoseconds: a time long ago, of a file system that knows more than seconds."""


def aged(path: Path, when: int = OLD) -> Path:
    """Give a file a time of its last change."""
    os.utime(path, ns=(when, when))
    return path


def test_a_stamp_is_of_the_size_the_time_and_the_file(tmp_path: Path) -> None:
    one, other = (aged(write(tmp_path / name, b"same size")) for name in ("one", "other"))
    assert stamp_of(one) == f"9-{OLD}-{one.stat().st_ino}" == stamp_before_reading(one)
    assert stamp_of(one) != stamp_of(other)
    before = stamp_of(one)
    one.rename(other)
    assert stamp_of(other) == before  # where it is says nothing
    aged(other, OLD + 1)
    assert stamp_of(other) != before
    assert (stamp_of(one), stamp_of(tmp_path), stamp_of("a\0b")) == (None, None, None)


@pytest.mark.parametrize(
    ("age", "recorded"), [(0, False), (1_000_000, False), (50_000_000, True), (-60_000_000_000, False)]
)
def test_a_file_that_has_just_changed_has_no_stamp_to_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: int, recorded: bool
) -> None:
    path = aged(write(tmp_path / "a"))
    monkeypatch.setattr(time, "time_ns", lambda: OLD + age)
    assert stamp_before_reading(path) == (stamp_of(path) if recorded else None)


@pytest.mark.parametrize(("age", "recorded"), [(1_900_000_000, False), (2_100_000_000, True)])
def test_where_times_are_whole_seconds_it_takes_two_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: int, recorded: bool
) -> None:
    path = aged(write(tmp_path / "a"), 1_700_000_000_000_000_000)
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000 + age)
    assert stamp_before_reading(path) == (stamp_of(path) if recorded else None)


def test_what_was_just_written_is_stamped_after_a_tick_unless_someone_has_changed_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"mine")
    written = sha256(path)
    stamp = stamp_of_written(path, written)
    assert stamp is not None
    path.write_bytes(b"your")  # at once, and of the same size
    assert stamp_of(path) != stamp
    assert stamp_of_written(path, written) is None
    path.unlink()
    assert stamp_of_written(path, written) is None


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list of the files that are hashed from now on."""
    read: list[Path] = []

    def hashed(path: Path) -> str | None:
        read.append(path)
        return sha256_or_none(path)

    for module in ("contents", "journal"):
        monkeypatch.setattr(f"advimg.batches.{module}.sha256_or_none", hashed)
    monkeypatch.setattr("advimg.batches.pipeline.Engine", no_attack)
    return read


@pytest.mark.usefixtures("quick")
def test_a_batch_that_is_finished_reads_no_photo_and_no_picture(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*COMMAND).code == 0
    for record in records_of(out):
        paths = {"source": record["source"], **record["outputs"]}
        assert record["stamps"] == {kind: stamp_of(path) for kind, path in paths.items()}
        assert record["amplify"] == "auto"
    before = (out / "results.jsonl").read_bytes()
    read = forbid_reading(monkeypatch)
    monkeypatch.setattr("advimg.batches.resume.shown_in", no_attack)
    assert cli(*COMMAND).code == 0
    assert read == []
    assert (out / "results.jsonl").read_bytes() == before
    # One whose time alone is another is read, and then known again.
    aged(photos[1])
    assert cli(*COMMAND).code == 0
    assert read == [photos[1]]
    assert cli(*COMMAND).code == 0
    assert read == [photos[1]]


def _without_stamps(record: dict[str, Any]) -> None:
    del record["stamps"], record["amplify"]


def _of_another_disk(record: dict[str, Any]) -> None:
    record["stamps"] = dict.fromkeys(record["stamps"], "1-2-3")


@pytest.mark.parametrize("change", [_without_stamps, _of_another_disk])
@pytest.mark.usefixtures("quick")
def test_files_without_their_stamp_are_read_once(
    cli: Cli,
    photos: list[Path],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Any]], None],
) -> None:
    assert cli(*COMMAND).code == 0
    stamped = contents(out)
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    for record in lines:
        change(record)
    (out / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    read = forbid_reading(monkeypatch)
    assert cli(*COMMAND).code == 0
    assert sorted(read) == sorted([*photos, *out.glob("*.png")])
    stamps = [json.loads(line)["stamps"] for line in stamped["results.jsonl"].splitlines()]
    assert [record["stamps"] for record in records_of(out)] == stamps
    read.clear()
    assert cli(*COMMAND).code == 0
    assert read == []


@pytest.mark.usefixtures("quick")
def test_a_copied_folder_is_read_and_nothing_is_done_again(
    cli: Cli, photos: list[Path], tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*COMMAND).code == 0
    shutil.copytree(photos[0].parent, tmp_path / "server/photos")
    shutil.copytree(out, tmp_path / "server/out")
    read = forbid_reading(monkeypatch)
    monkeypatch.chdir(tmp_path / "server")
    assert cli(*COMMAND).code == 0
    assert len(read) == 12


@pytest.mark.usefixtures("quick")
def test_a_changed_photo_is_noticed_though_another_target_of_it_is_not_asked_for(
    cli: Cli, photos: list[Path], out: Path
) -> None:
    assert cli(*COMMAND, "-t", "1").code == 0
    photos[0].write_bytes(photos[1].read_bytes())
    for targets in (("-t", "3"), ("-t", "1")):
        ran = cli("batch", "photos", *targets, "-O", "out")
        assert "3 of 4 were done by an earlier run" in ran.err
    assert_kept(out, quick_classifier())
