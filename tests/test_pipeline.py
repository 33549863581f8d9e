"""Many photos in one process."""

import gc
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

from advimg.batches.stats import BatchStats
from advimg.engine.job import Job
from tests.batches import attack_all, open_descriptors, save_photos
from tests.conftest import linear_classifier


def test_many_photos_leave_no_file_open_and_no_job_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()
    if before is None:
        pytest.skip("the system does not tell which files are open")
    photos = save_photos(tmp_path / "photos", 300)
    broken = photos[::5]
    for path in broken:
        path.write_bytes(path.read_bytes()[:300])
    jobs: WeakSet[Job] = WeakSet()
    most_open = most_jobs = 0

    def job(**known: Any) -> Job:
        made = Job(**known)
        jobs.add(made)
        return made

    def ended(stats: BatchStats) -> None:
        nonlocal most_open, most_jobs
        most_open, most_jobs = max(most_open, open_descriptors() or 0), max(most_jobs, len(jobs))

    monkeypatch.setattr("advimg.batches.reader.Job", job)

    # A photo is large: it must not wait for the garbage collector, which goes by the number of objects.
    gc.disable()
    try:
        stats = attack_all(photos, tmp_path / "out", linear_classifier(classes=2, scale=0.5), ended=ended)
    finally:
        gc.enable()
    assert (stats.verified, len(stats.failures)) == (240, 60)
    assert open_descriptors() == before
    # The journal, its list and lock, and what the threads are reading and writing.
    assert most_open <= before + 20
    # Those that are live, read ahead, or being written.
    assert 0 < most_jobs < 45
