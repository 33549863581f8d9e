"""Many photos over one network: each live photo has a slot, all slots share each pass, a finished one is refilled.

A photo is finished when the *stock* view of the whole-level picture, through the untouched 32-bit network, shows the
target with the confidence asked for; what the gradient network believes only says when it is worth asking.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from advimg.attacks.losses import LOSSES
from advimg.classifiers.classifier import Classifier, Verdict
from advimg.classifiers.device import differentiable, repeatable
from advimg.classifiers.gradient import GradientNetwork
from advimg.engine.capacity import BatchSize, Capacity, free_cached, is_out_of_memory
from advimg.engine.slot import Failed, Job, Result, Slot
from advimg.errors import AdvimgError, ClassifierError
from advimg.images.photo import Levels, Photo
from advimg.settings import Precision


@dataclass(frozen=True, slots=True)
class StepReport:
    """Where one photo stands, as the gradient network sees it."""

    job: Job
    step: int
    confidence: float


Watcher = Callable[[StepReport], None]


class Feed(Protocol):
    """Where the jobs come from: photos may take a while to read, and the network shall not wait for them."""

    def take(self, *, wait: bool) -> Job | None:
        """Return the next job.

        Args:
            wait: whether to wait for one that is not ready.

        Returns:
            None if no job is ready; with ``wait``, if there will be no more.
        """


class Engine:
    """Attacks photos on one classifier.

    Args:
        classifier: judges; never changed.
        precision: what gradients are computed in; "auto" decides by the device.
        batch_size: how many photos share a pass; "auto" decides by the device and its memory.
    """

    def __init__(
        self, classifier: Classifier, *, precision: Precision = "auto", batch_size: BatchSize = "auto"
    ) -> None:
        self._classifier = classifier
        with differentiable():
            self._network = GradientNetwork(classifier, precision)
        self._capacity = Capacity.of(classifier.device, batch_size)
        self._seen: WeakKeyDictionary[Photo, Verdict] = WeakKeyDictionary()
        self.precision = self._network.precision

    @property
    def slots(self) -> int:
        """How many photos share a pass; halved whenever the device's memory does not hold them."""
        return self._capacity.slots

    def attack(self, job: Job, *, watch: Watcher | None = None) -> Result:
        """Attack one photo.

        Raises:
            PhotoError: the photo's shape cannot be looked at.
            ClassifierError: the network's output is not finite logits, or memory is too short for the photo.
        """
        (ended,) = self.run([job], watch=watch)
        if isinstance(ended, Failed):
            raise ended.error
        return ended

    def run(
        self,
        jobs: Iterable[Job] | Feed,
        *,
        watch: Watcher | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Result | Failed]:
        """Attack each job's photo and yield results as they are ready, which need not be the order of the jobs.

        Args:
            jobs: taken one by one, as slots become free.
            watch: called for each photo at each step.
            stop: asked before each step; once it is true, photos that are not finished are dropped.
        """
        queue = _Queue(_Ready(jobs) if isinstance(jobs, Iterable) else jobs)
        live: list[Slot] = []
        while not stop():
            with differentiable(), repeatable(self._classifier.device, exact=False):
                refused = self._admit(queue, live)
                ended = self._advance(live, watch) if live else {}
            live = [slot for slot in live if slot not in ended]
            # Outside, for the caller's code runs here.
            yield from refused
            yield from ended.values()
            if not live and not refused and not ended:
                return

    def _admit(self, queue: "_Queue", live: list[Slot]) -> list[Failed]:
        """Fill the free slots; return the jobs that cannot be attacked at all."""
        refused: list[Failed] = []
        while len(live) < self.slots and (job := queue.take(wait=not live and not refused)) is not None:
            if live and sum(_pixels(slot.job) for slot in live) + _pixels(job) > self._capacity.pixels:
                queue.put_back(job)
                break
            try:
                live.append(Slot(job, self._classifier, self._before(job.photo)))
            except AdvimgError as error:
                # Its traceback would hold this frame, and with it all live slots, until garbage collection.
                refused.append(Failed(job, error.with_traceback(None)))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if live:
                    queue.put_back(job)
                    self._capacity.slots = len(live)
                    break
                refused.append(Failed(job, _too_little_memory(job)))
        return refused

    def _before(self, photo: Photo) -> Verdict:
        """Judge a photo; once, if several jobs share it."""
        if photo not in self._seen:
            self._seen[photo] = self._classifier.judge_photo(photo)
        return self._seen[photo]

    def _advance(self, live: Sequence[Slot], watch: Watcher | None) -> dict[Slot, Result | Failed]:
        """Move every slot on by one pass, in as many passes as memory asks for; return those that ended."""
        ended: dict[Slot, Result | Failed] = {}
        size = self.slots
        for begin in range(0, len(live), size):
            ended |= self._pass_in_memory(live[begin : begin + size], watch)
        return ended

    def _pass_in_memory(self, slots: Sequence[Slot], watch: Watcher | None) -> dict[Slot, Result | Failed]:
        try:
            return self._pass(slots, watch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here, where the error no longer holds the tensors of the pass.
        free_cached(self._classifier.device)
        if len(slots) == 1:
            return {slots[0]: Failed(slots[0].job, _too_little_memory(slots[0].job))}
        self._capacity.slots = half = len(slots) // 2
        return self._pass_in_memory(slots[:half], watch) | self._pass_in_memory(slots[half:], watch)

    def _pass(self, slots: Sequence[Slot], watch: Watcher | None) -> dict[Slot, Result | Failed]:
        """Look at every slot's candidate once, end the slots that are done, and move the others a step.

        All that can run out of memory comes before the first slot is changed, so a pass can be tried again.
        """
        targets = torch.tensor([slot.target for slot in slots], device=self._classifier.device)
        seen = torch.stack([slot.see() for slot in slots]).requires_grad_()  # [n, 3, crop, crop]
        logits = self._network.logits(seen)  # [n, classes]
        standings = _standings(logits.detach(), targets, [slot.away for slot in slots])
        ends = [self._end(slot, standing) for slot, standing in zip(slots, standings, strict=True)]
        moving = [position for position, slot in enumerate(slots) if ends[position] is None and not slot.out_of_steps]
        if moving:
            gradient = _gradient(logits, targets, seen, slots)
        ended: dict[Slot, Result | Failed] = {}
        for position, (slot, standing, end) in enumerate(zip(slots, standings, ends, strict=True)):
            slot.gradients += 1
            if watch is not None:
                watch(StepReport(slot.job, slot.steps, standing.confidence))
            if isinstance(end, Failed):
                ended[slot] = end
            elif end is not None:
                ended[slot] = slot.result(end.levels, end.verdict, steps=end.steps)
            elif slot.out_of_steps:
                slot.restart()
            else:
                slot.step(gradient[position])
        return ended

    def _end(self, slot: Slot, standing: "_Standing") -> "_End | Failed | None":
        """Return how a slot ends with the candidate that was just seen; None if it goes on."""
        if not math.isfinite(standing.log_confidence):
            name = self._classifier.name
            return Failed(slot.job, ClassifierError(f"{name} gives logits that are not finite (NaN) during the attack"))
        slot.keep_if_best(top1=standing.top1, log_confidence=standing.log_confidence)
        wanted = slot.job.settings.confidence
        try:
            if standing.top1 and standing.confidence >= wanted:
                levels = slot.candidate_levels()
                verdict = self._classifier.judge(levels)
                # The untouched classifier has the last word.
                if slot.fooled(verdict) and slot.confidence(verdict) >= wanted:
                    return _End(levels, verdict, slot.steps)
            if slot.out_of_starts:
                levels = slot.best_levels()
                return _End(levels, self._classifier.judge(levels), slot.best_steps)
        except ClassifierError as error:
            return Failed(slot.job, error)
        return None


class _End(NamedTuple):
    """The picture that a slot ends with."""

    levels: Levels
    verdict: Verdict
    steps: int


class _Standing(NamedTuple):
    """Where what the attack is after stands among the logits of one candidate."""

    log_confidence: float
    top1: bool

    @property
    def confidence(self) -> float:
        return math.exp(min(0.0, self.log_confidence))


class _Ready:
    """A feed of jobs that are ready."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = iter(jobs)

    def take(self, *, wait: bool) -> Job | None:  # noqa: ARG002
        return next(self._jobs, None)


class _Queue:
    """A feed that a job can be put back into."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._held: Job | None = None

    def take(self, *, wait: bool) -> Job | None:
        job, self._held = self._held, None
        return job if job is not None else self._feed.take(wait=wait)

    def put_back(self, job: Job) -> None:
        self._held = job


def _gradient(logits: Tensor, targets: Tensor, seen: Tensor, slots: Sequence[Slot]) -> Tensor:
    """Return each photo's gradient of its own loss with respect to what was seen, [n, 3, crop, crop]."""
    total = torch.zeros((), device=logits.device)
    for name, away in {(slot.job.settings.loss, slot.away) for slot in slots}:
        chosen = [
            position for position, slot in enumerate(slots) if (slot.job.settings.loss, slot.away) == (name, away)
        ]
        loss = LOSSES[name](logits[chosen], targets[chosen]).sum()
        total = total - loss if away else total + loss
    (gradient,) = torch.autograd.grad(total, seen)
    return gradient


def _standings(logits: Tensor, targets: Tensor, away: Sequence[bool]) -> list[_Standing]:
    """Read off where each photo stands: the one transfer from the device in a step.

    For a photo that goes away from its class, all others together stand in the place of the target.
    """
    log_probabilities = torch.log_softmax(logits, dim=1)
    log_confidence = log_probabilities.gather(1, targets[:, None]).squeeze(1)
    top1 = logits.argmax(dim=1) == targets
    if any(away):
        leaving = torch.tensor(away, device=logits.device)
        others = log_probabilities.scatter(1, targets[:, None], float("-inf")).logsumexp(dim=1)
        log_confidence, top1 = torch.where(leaving, others, log_confidence), top1 != leaving
    pairs = torch.stack([log_confidence, top1.float()], dim=1).tolist()
    return [_Standing(value, bool(top)) for value, top in pairs]


def _pixels(job: Job) -> int:
    width, height = job.photo.size
    return width * height


def _too_little_memory(job: Job) -> ClassifierError:
    width, height = job.photo.size
    return ClassifierError(f"{job.photo.source} ({width}x{height}): out of memory; try a smaller photo or --device cpu")
