"""Which photos the engine lets in, in which order, and those that it refuses."""

import gc
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import pytest

from advimg.classifiers.classifier import Classifier, Verdict
from advimg.engine.attack_state import AttackState
from advimg.engine.engine import Engine
from advimg.engine.job import Failed, Job, Result
from advimg.errors import PhotoError
from advimg.images.photo import Photo
from advimg.settings import Settings
from tests.batches import NEVER, noise_jobs, wrapped
from tests.conftest import linear_classifier, random_photo, run_all

if TYPE_CHECKING:
    from advimg.engine.step_report import StepReport


class _Late:
    """A feed with a job only every so often, unless it is waited for."""

    def __init__(self, jobs: Iterable[Job], every: int) -> None:
        self.jobs: Iterator[Job] = iter(jobs)
        self.every = every
        self.asked = 0
        self.taken = 0
        self.waited_at: list[int] = []

    def take(self, *, wait: bool) -> Job | None:
        self.asked += 1
        if wait:
            self.waited_at.append(self.taken)
        elif self.asked % self.every:
            return None
        job = next(self.jobs, None)
        self.taken += job is not None
        return job


@pytest.mark.parametrize("every", [2, 5, 1000])
def test_a_feed_that_is_not_ready_is_waited_for_only_when_nothing_is_live(every: int) -> None:
    jobs = noise_jobs(7)
    feed = _Late(jobs, every)
    engine = Engine(linear_classifier(classes=4, scale=0.02), batch_size=3)
    ended: list[Job] = []
    for end in engine.run(feed):
        assert isinstance(end, Result)
        ended.append(end.job)
        # Whenever it waited, all that had been taken had ended.
        assert all(taken <= len(ended) for taken in feed.waited_at)
    assert set(ended) == set(jobs)
    assert len(ended) == len(jobs)
    assert feed.waited_at[-1] == len(jobs)


def test_a_stopped_run_drops_what_is_not_finished() -> None:
    jobs = noise_jobs(9)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 4

    steps: list[StepReport] = []
    settings = replace(NEVER, steps=50)
    jobs[:2] = noise_jobs(2, Settings(eps=1, confidence=0, steps=1))
    jobs[2:] = [replace(job, settings=settings) for job in jobs[2:]]
    ends = list(
        Engine(linear_classifier(classes=4, scale=0.0001), batch_size=3).run(jobs, watch=steps.append, stop=stop)
    )
    assert {end.job for end in ends} == set(jobs[:2])
    assert max(report.step for report in steps) <= 4
    assert asked == 5


def test_a_run_that_is_stopped_before_it_begins_takes_no_job() -> None:
    feed = _Late(noise_jobs(3), 1)
    assert list(Engine(linear_classifier(classes=4)).run(feed, stop=lambda: True)) == []
    assert feed.asked == 0


def _far(classes: int = 4) -> Classifier:
    """A classifier that blows small photos up far enough to refuse a long and thin one."""
    return wrapped(linear_classifier(classes=classes, scale=0.02).network, classes, resize=256)


@pytest.mark.parametrize("position", [0, 2, 5])
def test_a_photo_too_long_and_thin_does_not_stop_the_others(position: int) -> None:
    jobs = noise_jobs(5)
    thin = Job(photo=random_photo(3000, 1), target=1, settings=Settings())
    jobs.insert(position, thin)
    ends = list(Engine(_far(), batch_size=3).run(jobs))
    assert {end.job for end in ends} == set(jobs)
    (failed,) = [end for end in ends if isinstance(end, Failed)]
    assert failed.job is thin
    assert isinstance(failed.error, PhotoError)
    assert "3000x1" in str(failed.error)


def test_photos_that_are_refused_keep_no_others_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    slots: WeakSet[AttackState] = WeakSet()
    most = 0

    def counted(*arguments: Any) -> AttackState:
        nonlocal most
        slot = AttackState(*arguments)
        slots.add(slot)
        most = max(most, len(slots))
        return slot

    monkeypatch.setattr("advimg.engine.engine.AttackState", counted)
    thin = [Job(photo=random_photo(3000, 1, seed), target=1, settings=Settings()) for seed in range(12)]
    jobs = [job for pair in zip(thin, noise_jobs(12), strict=True) for job in pair]
    gc.disable()  # it goes by the number of objects, and a slot is few objects and much memory
    try:
        assert len(list(Engine(_far(), batch_size=2).run(jobs))) == 24
    finally:
        gc.enable()
    # Those that are live, and those that have just ended.
    assert most <= 4


def test_a_refused_photo_is_told_of_before_another_is_waited_for() -> None:
    thin = Job(photo=random_photo(3000, 1), target=1, settings=Settings())
    feed = _Late([thin, *noise_jobs(1)], 1000)
    ends = Engine(_far()).run(feed)
    assert isinstance(next(ends), Failed)
    assert feed.taken == 1
    assert isinstance(next(ends), Result)


def test_nothing_but_photos_that_cannot_be_attacked() -> None:
    jobs = [Job(photo=random_photo(3000, 1, seed), target=1, settings=Settings()) for seed in range(5)]
    ends = list(Engine(_far(), batch_size=2).run(_Late(jobs, 3)))
    assert [end.job for end in ends] == jobs


def test_several_jobs_of_one_photo_look_at_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Photo] = []
    honest = Classifier.judge_photo

    def look(self: Classifier, photo: Photo) -> Verdict:
        looked.append(photo)
        return honest(self, photo)

    monkeypatch.setattr(Classifier, "judge_photo", look)
    photos = [random_photo(8, 8, seed) for seed in range(3)]
    jobs = [Job(photo=photo, target=target, settings=NEVER) for photo in photos for target in range(4)]
    results = run_all(Engine(linear_classifier(classes=4), batch_size=5), jobs)
    assert len(results) == 12
    assert looked == photos
