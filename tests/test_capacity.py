"""How many photos memory has room for, and passes that do not fit."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

from advimg.classifiers.device import is_out_of_memory
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.classifiers.gradient.precision import Choice
from advimg.engine.attack_state import AttackState
from advimg.engine.capacity import Capacity, bytes_of, free_cached
from advimg.engine.engine import Engine
from advimg.engine.job import Failed, Job, Result
from advimg.engine.paths import ChangedPath, resize_crop_of
from advimg.engine.step_report import StepReport
from advimg.errors import ClassifierError, PhotoError
from advimg.settings import Settings
from advimg.transforms.resampling import resize_axes
from tests.batches import NEVER, noise_jobs, wrapped
from tests.conftest import linear_classifier, random_photo, run_all


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (PhotoError("out of memory"), False),
    ],
)
def test_what_out_of_memory_looks_like(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_the_room_of_a_cpu() -> None:
    cpu = torch.device("cpu")
    auto = Capacity.of(cpu, "auto")
    assert 1 <= auto.batch_size <= 8
    assert auto.memory > 1 << 28
    assert Capacity.of(cpu, 33) == Capacity(33, auto.memory)


def test_little_memory_is_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advimg.engine.capacity._memory", lambda _: 1 << 31)
    assert Capacity.of(torch.device("cpu"), "auto").batch_size == 2
    monkeypatch.setattr("advimg.engine.capacity._memory", lambda _: 1 << 20)
    assert Capacity.of(torch.device("cpu"), "auto").batch_size == 1


def test_a_system_that_does_not_tell_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sysconf", raising=False)
    assert Capacity.of(torch.device("cpu"), "auto").batch_size >= 1


class _Narrow(torch.nn.Module):
    """A linear network that memory has room for only with ``most`` photos at a time, or ``most`` with a gradient."""

    def __init__(self, most: int, error: Callable[[], Exception], *, judges: bool = True) -> None:
        super().__init__()
        self.linear = linear_classifier(classes=4, scale=0.02).network
        self.most = most
        self.error = error
        self.judges = judges

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        if len(picture) > self.most and not (self.judges and not picture.requires_grad):
            raise self.error()
        logits: torch.Tensor = self.linear(picture)
        return logits


def _cuda() -> Exception:
    return torch.cuda.OutOfMemoryError("CUDA out of memory.")


def _cpu() -> Exception:
    return RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")


def _levels(results: Iterable[Result]) -> dict[Job, bytes]:
    return {result.job: result.levels.tobytes() for result in results}


@pytest.mark.parametrize("error", [_cuda, _cpu, MemoryError])
@pytest.mark.parametrize(("most", "slots"), [(1, 1), (2, 2), (3, 2), (5, 4), (8, 8)])
def test_a_pass_that_does_not_fit_is_halved_and_nothing_is_lost(
    most: int, slots: int, error: Callable[[], Exception]
) -> None:
    jobs = noise_jobs(11)
    alone = {job: Engine(wrapped(_Narrow(99, error))).attack(job).levels.tobytes() for job in jobs}
    engine = Engine(wrapped(_Narrow(most, error)), batch_size=8)
    steps: list[StepReport] = []
    results = run_all(engine, jobs, steps.append)
    assert len(results) == len(jobs)
    assert _levels(results) == alone
    assert engine.batch_size == slots
    for result in results:
        seen = [report.step for report in steps if report.job is result.job]
        assert seen == list(range(len(seen)))
        assert result.gradients == len(seen)


@pytest.mark.parametrize("judges", [True, False])
def test_photos_that_no_memory_has_room_for_fail_one_by_one(judges: bool) -> None:
    jobs = noise_jobs(5)
    ends = list(Engine(wrapped(_Narrow(0, _cpu, judges=judges)), batch_size=4).run(jobs))
    assert {end.job for end in ends} == set(jobs)
    for end in ends:
        assert isinstance(end, Failed)
        assert isinstance(end.error, ClassifierError)
        assert "out of memory" in str(end.error)
        assert end.job.photo.source in str(end.error)


def test_an_error_that_is_not_about_memory_ends_the_run() -> None:
    engine = Engine(wrapped(_Narrow(2, lambda: RuntimeError("shapes"))), batch_size=4)
    with pytest.raises(ClassifierError, match="_Narrow fails on an input of 8x8 pixels: RuntimeError: shapes"):
        list(engine.run(noise_jobs(5)))


def test_neighbours_do_not_change_what_a_failed_pass_had_begun() -> None:
    """Restarts draw random numbers; a pass that is tried again must not draw them twice."""
    jobs = noise_jobs(5, replace(NEVER, restarts=2, seed=4))
    alone = {job: Engine(wrapped(_Narrow(99, _cpu))).attack(job).levels.tobytes() for job in jobs}
    assert _levels(run_all(Engine(wrapped(_Narrow(2, _cpu)), batch_size=5), jobs)) == alone


@pytest.mark.parametrize("call", [2, 4, 5, 9, 12])
def test_gradients_that_do_not_fit_on_their_way_back_change_nothing(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Those of changes: one photo ends its search for the least eps in a pass that has to be repeated for another."""
    classifier = linear_classifier(classes=4, scale=0.02)
    settings = Settings(eps="auto", max_eps=64, survive="mirror", refine=0)
    jobs = [
        Job(photo=random_photo(12, 10, seed), target=2, settings=replace(settings, steps=3 + 5 * seed))
        for seed in range(2)
    ]

    def attacked() -> list[tuple[bytes, Any, int, int, list[int]]]:
        seen: dict[Job, list[int]] = {job: [] for job in jobs}
        results = run_all(
            Engine(classifier, precision="fp32", batch_size=8),
            jobs,
            lambda report: seen[report.job].append(report.step),
        )
        results.sort(key=lambda result: jobs.index(result.job))
        return [(each.levels.tobytes(), each.tried, each.gradients, each.steps, seen[each.job]) for each in results]

    undisturbed = attacked()
    carry, calls = ChangedPath.backward, 0

    def failing(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == call:
            raise _cpu()
        return carry(*arguments)

    monkeypatch.setattr(ChangedPath, "backward", failing)
    assert attacked() == undisturbed
    assert calls > call


def test_a_photo_that_finds_no_room_beside_others_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def crowded(*arguments: Any) -> AttackState:
        nonlocal made
        made += 1
        if made == 3:
            raise MemoryError
        return AttackState(*arguments)

    monkeypatch.setattr("advimg.engine.engine.AttackState", crowded)
    jobs = noise_jobs(6)
    engine = Engine(linear_classifier(classes=4), batch_size=4)
    assert {result.job for result in run_all(engine, jobs)} == set(jobs)
    assert engine.batch_size == 2


def _live_at_each_pass(engine: Engine, jobs: Iterable[Job]) -> list[int]:
    """Return how many photos were live in each pass; all take the same number of steps."""
    passes: list[list[tuple[Job, int]]] = []

    def watch(report: StepReport) -> None:
        if not passes or any(report.job is job or report.step != step for job, step in passes[-1]):
            passes.append([])
        passes[-1].append((report.job, report.step))

    run_all(engine, jobs, watch)
    return [len(live) for live in passes]


def test_live_photos_together_have_no_more_pixels_than_there_is_room_for() -> None:
    jobs = [Job(photo=random_photo(10, 10, seed), target=0, settings=NEVER) for seed in range(6)]
    engine = Engine(linear_classifier(classes=4, scale=0.0001), batch_size=8)
    engine._capacity.memory = 4 * 50 * 250
    assert _live_at_each_pass(engine, jobs) == [2] * 18


def test_one_photo_is_always_let_in() -> None:
    jobs = [Job(photo=random_photo(10, 10, seed), target=0, settings=NEVER) for seed in range(3)]
    engine = Engine(linear_classifier(classes=4, scale=0.0001), batch_size=8)
    engine._capacity.memory = 1
    assert _live_at_each_pass(engine, jobs) == [1] * 18


_TWO_CHANGES = replace(NEVER, survive="mirror,resize:3:box")


def test_changes_take_their_part_of_the_room() -> None:
    """Twenty times what the photos alone take: enlarged, and their gradients on the way back."""
    jobs = [Job(photo=random_photo(10, 10, seed), target=0, settings=_TWO_CHANGES) for seed in range(4)]
    assert bytes_of(replace(jobs[0], settings=NEVER)) == 50 * 100
    assert bytes_of(jobs[0]) == 50 * 100 + 4 * (100 + 900) + 110 * 900
    engine = Engine(linear_classifier(classes=4, scale=0.0001), batch_size=24)
    engine._capacity.memory = 4 * 250_000
    assert _live_at_each_pass(engine, jobs) == [2] * 12


def test_a_photo_whose_changes_take_more_than_all_memory_is_told_so() -> None:
    job = Job(photo=random_photo(10, 10), target=0, settings=_TWO_CHANGES)
    engine = Engine(linear_classifier(classes=4), batch_size=24)
    engine._capacity.memory = 100_000
    with pytest.raises(ClassifierError, match=r"noise0\.png \(10x10\): out of memory; try fewer or smaller changes of"):
        engine.attack(job)


def test_a_photo_counts_as_often_as_it_has_views() -> None:
    jobs = [Job(photo=random_photo(10, 10, seed), target=0, settings=_TWO_CHANGES) for seed in range(4)]
    for batch_size, live in ((2, 1), (5, 1), (6, 2), (12, 4)):
        engine = Engine(linear_classifier(classes=4, scale=0.0001), batch_size=batch_size)
        assert _live_at_each_pass(engine, jobs) == [live] * (6 * 4 // live)


def test_a_pass_that_does_not_fit_is_halved_by_its_views() -> None:
    jobs = [Job(photo=random_photo(10, 10, seed), target=0, settings=_TWO_CHANGES) for seed in range(4)]
    alone = {job: Engine(wrapped(_Narrow(99, _cpu))).attack(job).levels.tobytes() for job in jobs}
    engine = Engine(wrapped(_Narrow(6, _cpu)), batch_size=12)
    assert _levels(run_all(engine, jobs)) == alone
    assert engine.batch_size == 6


def test_where_the_views_of_one_photo_do_not_fit_fewer_share_a_pass() -> None:
    settings = Settings(eps=60, survive="mirror,resize:0.5:box,resize:2:box,brightness:1.1")
    job = Job(photo=random_photo(10, 10), target=2, settings=settings)
    result = Engine(wrapped(_Narrow(3, _cpu))).attack(job)
    assert result.fooled
    assert [each.fooled for each in result.judgements[0].survives] == [True] * 4
    with pytest.raises(ClassifierError, match="out of memory; try fewer or smaller changes of --survive"):
        Engine(wrapped(_Narrow(1, _cpu))).attack(job)


def test_the_precision_is_chosen_by_as_many_pictures_as_share_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def noted(network: GradientNetwork, seen: torch.Tensor) -> Choice:
        measured.append(len(seen))
        return Choice(network, "fp32: noted")

    monkeypatch.setattr("advimg.engine.engine.chosen", noted)
    for settings in (NEVER, _TWO_CHANGES):
        Engine(linear_classifier(classes=4)).attack(Job(photo=random_photo(10, 10), target=0, settings=settings))
    assert measured == [1, 3]


def test_what_is_kept_for_later_is_given_back() -> None:
    resize_axes((30, 20), (60, 40), "bicubic")
    resize_crop_of(linear_classifier().preprocessing, 30, 20, torch.device("cpu"))
    free_cached(torch.device("cpu"))
    assert resize_axes.cache_info().currsize == resize_crop_of.cache_info().currsize == 0
