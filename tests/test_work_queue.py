"""One plan for several workers: who takes which attacks, and what becomes of those that are lost."""

import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from advimg.batches.plan import Item, Key
from advimg.batches.work_queue import WorkQueue
from advimg.outputs import Outputs


def items_of(attacks: Mapping[int, int]) -> list[Item]:
    """Return so many items for each photo."""
    return [
        Item(Key(Path(f"/{photo}.jpg"), target, 10), Outputs(Path(f"/{photo}_{target}.png"), None, None))
        for photo, number in attacks.items()
        for target in range(number)
    ]


def joined_by(items: Sequence[Item], workers: Iterable[Hashable]) -> WorkQueue:
    """Return a queue that these workers have joined."""
    queue = WorkQueue(items)
    for worker in workers:
        queue.join(worker)
    return queue


@pytest.mark.parametrize("seed", range(30))
def test_each_attack_is_done_once_whoever_takes_or_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    items = items_of({photo: chance.randint(1, 30) for photo in range(chance.randint(1, 20))})
    workers = list(range(chance.randint(1, 5)))
    queue = joined_by(items, workers)
    held: dict[int, list[Item]] = {worker: [] for worker in workers}
    done: list[Key] = []
    while queue.left:
        worker = chance.choice(workers)
        taken = queue.take(worker)
        if taken is None:
            # A worker without attacks gets some, as long as any are left.
            assert held[worker] or not queue.waiting
        else:
            assert len({item.key.source for item in taken}) == 1
            held[worker] += taken
        if chance.random() < 0.05:
            # Another comes in its place.
            given_up = queue.drop(worker, suspect=chance.random() < 0.5)
            assert len(given_up) <= 1  # only one that was alone
            done += [item.key for item in given_up]
            held[worker] = []
            queue.join(worker)
        elif held[worker] and chance.random() < 0.5:
            item = held[worker].pop()
            queue.done(worker, item.key)
            done.append(item.key)
    assert sorted(map(str, done)) == sorted(str(item.key) for item in items)
    assert not queue.waiting


def test_nobody_takes_what_others_could_do() -> None:
    queue = joined_by(items_of(dict.fromkeys(range(10), 1)), ["greedy", "late"])
    greedy = 0
    while queue.take("greedy"):
        greedy += 1
    assert greedy == 5
    assert queue.take("late")


def test_one_photo_with_many_targets_is_work_for_all() -> None:
    queue = joined_by(items_of({0: 40}), ["one", "other"])
    taken = queue.take("one"), queue.take("other")
    assert all(taken)


def test_what_ended_with_its_worker_comes_last_and_alone() -> None:
    items = items_of(dict.fromkeys(range(6), 1))
    queue = joined_by(items, ["lost", "other"])
    assert [queue.take("lost"), queue.take("lost")] == [items[:1], items[1:2]]
    assert not queue.drop("lost")
    rest = [queue.take("other") for _ in range(4)]
    assert rest == [[item] for item in items[2:]]
    assert queue.take("other") is None
    for item in items[2:]:
        queue.done("other", item.key)
    assert queue.take("other") == items[:1]
    assert queue.take("other") is None


def test_an_attack_that_ends_every_worker_is_given_up_and_no_other() -> None:
    items = items_of(dict.fromkeys(range(3), 1))
    queue = WorkQueue(items)
    given_up, lost = [], 0
    while queue.left:
        queue.join("worker")
        held = []
        while taken := queue.take("worker"):
            held += taken
        if items[1] in held:
            lost += 1
            given_up += queue.drop("worker")
        else:
            for item in held:
                queue.done("worker", item.key)
    assert (given_up, lost) == ([items[1]], 3)


def test_what_was_lost_with_its_machine_is_no_suspect() -> None:
    items = items_of(dict.fromkeys(range(4), 1))
    queue = joined_by(items, ["lost", "other"])
    assert queue.take("lost") == items[:1]
    assert not queue.drop("lost", suspect=False)
    assert [queue.take("other") for _ in range(4)] == [[item] for item in (*items[1:], items[0])]
