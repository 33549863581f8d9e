"""Serves the actors of a Ray cluster: gives them photos, keeps the journal, and copes with those that are lost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from advimg.batches.exchange import Orders, Report
from advimg.batches.journal_entry import key_of
from advimg.batches.pipeline import Run
from advimg.batches.plan import Item
from advimg.batches.ray_cluster import Bundle
from advimg.batches.ray_slot import Loss, Slot
from advimg.batches.work_queue import MOST_LOSSES, WorkQueue
from advimg.errors import AdvimgError, DeviceError, OutputError

if TYPE_CHECKING:
    from advimg.storage.url import Place

_POLL = 0.1
"""Seconds between two checks whether to stop, and of an exchange without news."""
_NO_ACTOR = 300.0
"""Seconds to wait for a first actor, or for another one where all are lost."""
_PAUSE = 30.0
"""Seconds without a round after which this process was stopped, or busy with something else: actors may have ended."""
_MOST_RESTARTS = 3
"""How many actors in a row may be lost at one place before they have done anything."""


@dataclass(eq=False)
class Coordinator:
    """Gives photos to actors, and keeps the journal.

    Attributes:
        slots: the places that have an actor, or will have one.
        queue: of the items.
        run: of the batch.
        warn: called with a line for a person.
        failed: returns the journal's line of an item that is given up, with the error, at a place.
        began: whether photos are given out.
        error: the first error, raised once the complete results are written.
    """

    slots: list[Slot]
    queue: WorkQueue
    run: Run
    warn: Callable[[str], None]
    failed: Callable[[Item, AdvimgError, Bundle], dict[str, Any]]
    began: bool = False
    error: AdvimgError | None = None
    _seen: float = field(default_factory=time.monotonic)
    _round: float = field(default_factory=time.monotonic)
    _paused: float | None = None

    def serve(self) -> None:
        """Have all items attacked, or what is complete be written after a stop.

        Raises:
            AdvimgError: see :meth:`advimg.batches.executor.Executor.attack`.
        """
        import ray
        from ray.exceptions import RayError

        while self.queue.left:
            now = time.monotonic()
            if now - self._round > _PAUSE:
                self._paused = now
            self._round = now
            self._dispatch()
            calls = {slot.call: slot for slot in self.slots if slot.call is not None}
            if not calls:
                break
            ready, _ = ray.wait(list(calls), timeout=_POLL)
            if ready and len(calls) > 1:
                ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
            reports: list[tuple[Slot, Report]] = []
            lost: list[tuple[Slot, Loss]] = []
            for call in ready:
                slot = calls[call]
                slot.call = None
                try:
                    reports.append((slot, ray.get(call)))
                except RayError as error:
                    # Ray tells of actors that have ended in a pause within a few seconds after it.
                    paused = self._paused is not None and time.monotonic() - self._paused < _PAUSE
                    lost.append((slot, slot.loss(error, paused=paused)))
            self._take(reports)
            for slot, loss in lost:
                self._lose(slot, loss)
            self._check_that_one_lives()
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        """End the actors at once."""
        for slot in self.slots:
            slot.end()

    def _take(self, reports: Sequence[tuple[Slot, Report]]) -> None:
        """Take what several actors report: one write to each file of the journal."""
        self._record([(slot, record) for slot, report in reports for record in report.records])
        hashes = {path: sha for _, report in reports for each in report.begins.values() for path, sha in each.items()}
        replaced: set[Place] | AdvimgError = set()
        if hashes:
            try:
                replaced = self.run.journal.begin(hashes)
            except AdvimgError as error:
                self._fail(replaced := error)
        for slot, report in reports:
            slot.node, slot.host, slot.wanted = report.node, report.host, report.wanted
            slot.runs_as(report.process)
            for number, files in report.begins.items():
                slot.answers[number] = replaced if isinstance(replaced, AdvimgError) else replaced & files.keys()
            if slot.state == "loading" and report.state == "ready":
                self.queue.join(slot)
            slot.state = report.state
            if isinstance(report.error, DeviceError):
                self._lose(slot, Loss(report.error, suspect=True, final=not self.began))
            elif report.error is not None:
                self._fail(report.error)

    def _record(self, records: Sequence[tuple[Slot, dict[str, Any]]]) -> None:
        """Add records to the journal, and count them."""
        if not records:
            return
        try:
            self.run.journal.append(*(record for _, record in records))
        except AdvimgError as error:
            self._fail(error)  # their files are listed as unfinished, and removed
            return
        for slot, record in records:
            slot.losses = 0
            self.queue.done(slot, key_of(record))
            self.run.ended(record)

    def _dispatch(self) -> None:
        """Begin actors, give them photos, and call those that have no call under way."""
        stopping = self.run.stop.is_set()
        self._begin(stopping=stopping)
        for slot in self.slots:
            if slot.handle is None and not stopping:
                slot.begin()
        if stopping:
            # What has not begun to attack has nothing to complete.
            for slot in [slot for slot in self.slots if slot.state != "ready"]:
                slot.end()
        for slot in self.slots:
            if slot.handle is None or slot.call is not None:
                continue
            photos: list[list[Item]] = []
            while self.began and not stopping and slot.state == "ready" and len(photos) < slot.wanted:
                items = self.queue.take(slot)
                if items is None:
                    break
                photos.append(items)
            answers, slot.answers = slot.answers, {}
            slot.call = slot.handle.exchange.remote(
                Orders(photos=photos, answers=answers, stop=stopping, patience=_POLL * (1 + len(self.slots) // 10))
            )

    def _begin(self, *, stopping: bool) -> None:
        """Give out photos once all actors that have a place in the cluster have loaded their classifiers.

        The first would else take the photos of all, and another may fail to load.
        """
        placed = [slot for slot in self.slots if slot.node is not None]
        if not self.began and not stopping and placed and all(slot.state == "ready" for slot in placed):
            self.began = True
            self.run.began()

    def _lose(self, slot: Slot, loss: Loss) -> None:
        """Go on without an actor: its photos go to the others, and another comes in its place."""
        given_up = self.queue.drop(slot, suspect=loss.suspect)
        for item in given_up:
            why = f"{item.key.source}: {MOST_LOSSES} actors ended while they attacked it; the last: {loss.error}"
            self._give_up(item, OutputError(why), slot)
        slot.losses = 0 if given_up else slot.losses + 1
        slot.end()
        if self.run.stop.is_set() or not self.queue.left:
            return
        if slot.losses < _MOST_RESTARTS and not loss.final:
            self.warn(f"{loss.error}; its photos go to others, and another actor takes its place")
            return
        self.slots.remove(slot)
        if self.slots and self.began:
            self.warn(f"{loss.error}; it is not replaced, its photos go to the others")
        else:
            self._fail(loss.error)

    def _give_up(self, item: Item, error: AdvimgError, slot: Slot) -> None:
        line = self.failed(item, error, slot.place)
        try:
            self.run.journal.append(line)
        except AdvimgError as full:
            self._fail(full)
            return
        self.run.ended(line)

    def _check_that_one_lives(self) -> None:
        """Give up where the cluster has had no room for any actor for long."""
        if any(slot.node is not None for slot in self.slots):
            self._seen = time.monotonic()
        elif self.slots and time.monotonic() - self._seen > _NO_ACTOR:
            asked = "GPU" if self.slots[0].place.resources.get("num_gpus") else "CPU"
            self._fail(
                DeviceError(f"the Ray cluster has had no {asked} for an actor for {_NO_ACTOR:g} s; is it in other use?")
            )

    def _fail(self, error: AdvimgError) -> None:
        """Stop all actors, and raise this error in the end, unless there was one before."""
        self.error = self.error or error
        self.run.stop.set()
