"""Batches whose n-th change of the disk fails, or is the last before the process is killed."""

import contextlib
import errno
import gc
import itertools
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advimg.batches.journal_files import LineFile
from advimg.errors import AdvimgError
from tests.batches import assert_kept, attack_all, quick_classifier, records_of, save_photos, sha256


class _Killed(BaseException):
    """The process has ended: from then on, nothing is changed on the disk."""


class _Faults:
    """Lets the n-th change of the disk fail.

    Attributes:
        calls: how many changes there were.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, fault: int | None) -> None:
        self.calls = 0
        self._number, self._fault = number, fault
        self._lock = threading.Lock()
        for owner, name in (
            (Path, "open"),
            (Path, "replace"),
            (Path, "hardlink_to"),
            (Path, "unlink"),
            (Path, "mkdir"),
            (Path, "rmdir"),
            (os, "fsync"),
            (LineFile, "write"),
        ):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name), name))

    def _counted(self, honest: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not set(str(arguments[1:])) & set("xwa"):
                return honest(*arguments, **options)
            with self._lock:
                self.calls += 1
                now, later = self.calls == self._number, self.calls > self._number
            if self._fault is None and (now or later):
                raise _Killed
            if now and self._fault is not None:
                if name == "write":  # half of it is written
                    honest(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise OSError(self._fault, os.strerror(self._fault))
            return honest(*arguments, **options)

        return call


def _assert_no_false_record(out: Path) -> None:
    path = out / "results.jsonl"
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        if line.endswith(b"\n"):
            record = json.loads(line)
            for kind, name in record["outputs"].items():
                assert sha256(out / name) == record["outputs_sha256"][kind]


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EACCES, None], ids=["full", "denied", "killed"])
def test_whichever_change_of_the_disk_fails_nothing_is_lost_and_the_next_run_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int | None
) -> None:
    classifier = quick_classifier()
    photos = save_photos(tmp_path / "photos", 3)
    photos[1].write_bytes(b"broken")
    for number in itertools.count(1):
        out = tmp_path / f"out{number}"
        mine = out / "mine.txt"
        out.mkdir()
        mine.write_text("mine")
        with monkeypatch.context() as broken:
            faults = _Faults(broken, number, fault)
            with contextlib.suppress(AdvimgError, _Killed):
                attack_all(photos, out, classifier)
        gc.collect()  # what a process that ends lets go: its locks
        _assert_no_false_record(out)
        before = records_of(out) if (out / "results.jsonl").exists() else []
        before = [record for record in before if record["error"] is None]
        attack_all(photos, out, classifier, retry_failed=True)
        records = records_of(out)
        assert [record for record in records if record in before] == before
        assert {Path(record["source"]).name: record["fooled"] for record in records} == {
            "p00.jpg": True,
            "p01.jpg": False,
            "p02.jpg": True,
        }
        assert mine.read_text() == "mine"
        mine.unlink()
        assert_kept(out, classifier)
        if faults.calls < number:
            break
    assert number > 20
