"""Many photos over one network, or several: live photos have slots and share each pass, finished ones are replaced.

A photo is finished when the *stock* view of the whole-level picture, through the untouched 32-bit network, shows the
target with the confidence asked for; what the gradient network believes only says when it is worth asking. Several
networks are attacked together: the photo is finished when all of them are fooled.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import repeat
from typing import Literal, Protocol

import torch
from torch import Tensor

from advimg.classifiers.classifier import Classifier
from advimg.classifiers.device import differentiable, repeatable
from advimg.classifiers.ensemble import Ensemble
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.classifiers.gradient.precision import chosen
from advimg.engine.attack_state import AttackState
from advimg.engine.candidate import Candidate, offered
from advimg.engine.capacity import BatchSize, Capacity, free_cached, is_out_of_memory
from advimg.engine.forward import Score, forward, together
from advimg.engine.job import Attempt, Failed, Job, Result
from advimg.errors import AdvimgError, ClassifierError
from advimg.settings import Precision


@dataclass(frozen=True, slots=True)
class StepReport:
    """Where one photo stands, as the gradient network sees it; of several, the one that is least sure.

    Attributes:
        step: how many steps led here from this start, at this eps.
        eps: that is tried.
        confidence: of what is wanted, 0..1.
        candidate: returns the picture and what is seen in it; to be called only while the step is watched.
    """

    job: Job
    step: int
    eps: float
    confidence: float
    candidate: Callable[[], Candidate]


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
    """Attacks photos on one classifier, or on several at once.

    Args:
        classifiers: judge; never changed.
        precision: what gradients are computed in; "auto" measures on the first photos what is quicker here. Photos that
            bf16 does not get anywhere with go on in fp32.
        batch_size: how many photos share a pass; "auto" decides by the device and its memory.
    """

    def __init__(self, *classifiers: Classifier, precision: Precision = "auto", batch_size: BatchSize = "auto") -> None:
        self._ensemble = Ensemble(classifiers)
        with differentiable():
            self._networks = tuple(GradientNetwork(classifier, precision) for classifier in classifiers)
        self._capacity = Capacity.of(self._ensemble.device, batch_size)
        # For how many photos a pass the precision has been chosen; it is not the same for one and for several.
        measured = precision == "auto" and self._ensemble.device.type == "cpu"
        self._chosen_for = 0 if measured else math.inf
        self.choices: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """What gradients are computed in; of several networks, each."""
        return _precision_of(self._networks)

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
        (ended,) = self._run([job], watch=watch, stop=lambda: False, share=1)
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
        return self._run(jobs, watch=watch, stop=stop, share=self.slots)

    def _run(
        self, jobs: Iterable[Job] | Feed, *, watch: Watcher | None, stop: Callable[[], bool], share: int
    ) -> Iterator[Result | Failed]:
        """Attack as :meth:`run` does, where so many photos may be expected to share a pass."""
        queue = _Queue(_Ready(jobs) if isinstance(jobs, Iterable) else jobs)
        live: list[AttackState] = []
        while not stop():
            with differentiable(), repeatable(self._ensemble.device, exact=False):
                refused = self._admit(queue, live)
                if live and self._chosen_for < share:
                    self._choose(live[0], share)
                ended = self._advance(live, watch) if live else {}
            live = [slot for slot in live if slot not in ended]
            # Outside, for the caller's code runs here.
            yield from refused
            yield from ended.values()
            if not live and not refused and not ended:
                return

    def _admit(self, queue: "_Queue", live: list[AttackState]) -> list[Failed]:
        """Fill the free slots; return the jobs that cannot be attacked at all."""
        refused: list[Failed] = []
        while len(live) < self.slots and (job := queue.take(wait=not live and not refused)) is not None:
            if live and sum(_pixels(slot.job) for slot in live) + _pixels(job) > self._capacity.pixels:
                queue.put_back(job)
                break
            try:
                live.append(AttackState(job, self._ensemble))
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

    def _advance(self, live: Sequence[AttackState], watch: Watcher | None) -> dict[AttackState, Result | Failed]:
        """Move every slot on by one pass, in as many passes as memory asks for; return those that ended."""
        ended: dict[AttackState, Result | Failed] = {}
        size = self.slots
        exact, others = ([slot for slot in live if slot.exact == wanted] for wanted in (True, False))
        for slots in (exact, others) if any(network.precision == "bf16" for network in self._networks) else (live,):
            for begin in range(0, len(slots), size):
                ended |= self._pass_in_memory(slots[begin : begin + size], watch)
        return ended

    def _pass_in_memory(
        self, slots: Sequence[AttackState], watch: Watcher | None
    ) -> dict[AttackState, Result | Failed]:
        try:
            return self._pass(slots, watch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here, where the error no longer holds the tensors of the pass.
        free_cached(self._ensemble.device)
        if len(slots) == 1:
            return {slots[0]: Failed(slots[0].job, _too_little_memory(slots[0].job))}
        self._capacity.slots = half = len(slots) // 2
        return self._pass_in_memory(slots[:half], watch) | self._pass_in_memory(slots[half:], watch)

    def _pass(self, slots: Sequence[AttackState], watch: Watcher | None) -> dict[AttackState, Result | Failed]:
        """ForwardPass at every slot's candidate once, end the slots that are done, and move the others a step.

        All that can run out of memory comes before anything is changed that a second try would change again.
        """
        pictures = zip(*(slot.see() for slot in slots), strict=True)
        networks = self._exact_networks if slots[0].exact else self._networks
        criteria = zip(*(slot.criteria for slot in slots), strict=True)
        alter = [partial(_diversified, slots, number) for number in range(len(self._networks))]
        softness = [slot.softness for slot in slots]
        looks = list(map(forward, pictures, networks, criteria, repeat(softness), alter))
        standings = [together(each) for each in zip(*(look.standings for look in looks), strict=True)]
        turns = [self._turn(slot, standing) for slot, standing in zip(slots, standings, strict=True)]
        if "step" in turns:
            losses, temperatures = zip(*((slot.job.settings.loss, slot.temperature) for slot in slots), strict=True)
            gradients = [look.gradient(losses, temperatures) for look in looks]
        ended: dict[AttackState, Result | Failed] = {}
        precision = _precision_of(networks)
        for position, (slot, standing, turn) in enumerate(zip(slots, standings, turns, strict=True)):
            slot.passed(precision)
            if watch is not None:
                with offered(slot, looks, position) as candidate:
                    watch(StepReport(slot.job, slot.steps, slot.eps, standing.confidence, candidate))
            if turn == "step":
                slot.step([gradient[position] for gradient in gradients])
            elif turn == "restart":
                slot.restart()
            elif isinstance(turn, Failed):
                ended[slot] = turn
            elif (attempt := slot.end_trial(turn)) is not None:
                ended[slot] = slot.result(attempt)
        return ended

    def _choose(self, slot: AttackState, share: int) -> None:
        """Choose each network's precision by what it takes for so many photos a pass."""
        self._chosen_for = share
        pictures = (seen.expand(share, -1, -1, -1) for seen in slot.see())
        try:
            choices = [chosen(network, seen) for network, seen in zip(self._exact_networks, pictures, strict=True)]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            free_cached(self._ensemble.device)
            return  # the pass that comes will find out how many photos there is room for
        self._networks = tuple(choice.network for choice in choices)
        self.choices = tuple(choice.reason for choice in choices)

    @cached_property
    def _exact_networks(self) -> tuple[GradientNetwork, ...]:
        """The networks in fp32, for photos that bf16 does not get anywhere with."""
        return tuple(
            network if network.precision == "fp32" else GradientNetwork(classifier, "fp32")
            for network, classifier in zip(self._networks, self._ensemble.classifiers, strict=True)
        )

    def _turn(self, slot: AttackState, standing: Score) -> "Attempt | Failed | Literal['step', 'restart']":
        """Return what the present eps ends with, by the candidate that was just seen, or how it goes on."""
        if not math.isfinite(standing.log_confidence):
            name = self._ensemble.name
            return Failed(slot.job, ClassifierError(f"{name} gives logits that are not finite (NaN) during the attack"))
        if slot.diverse:
            return "step"
        slot.keep_if_best(fooled=standing.fooled, log_confidence=standing.log_confidence)
        try:
            if standing.fooled == len(self._networks) and standing.confidence >= slot.job.settings.min_confidence:
                levels = slot.candidate_levels()
                verdicts = self._ensemble.judge(levels)
                # The untouched classifier has the last word.
                if slot.reached(verdicts):
                    return slot.attempt(levels, verdicts, steps=slot.steps)
                slot.refused(verdicts)
            if slot.out_of_starts:
                levels = slot.best_levels()
                return slot.attempt(levels, self._ensemble.judge(levels), steps=slot.best_steps)
        except ClassifierError as error:
            return Failed(slot.job, error)
        return "restart" if slot.out_of_steps else "step"


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


def _precision_of(networks: Iterable[GradientNetwork]) -> str:
    return " and ".join(dict.fromkeys(network.precision for network in networks))


def _diversified(slots: Sequence[AttackState], number: int, seen: Tensor) -> Tensor:
    """Alter what the network of this number sees, [n, 3, crop, crop], for those slots whose attack shall transfer."""
    if not any(slot.diverse for slot in slots):
        return seen
    return torch.stack([slot.diversified(picture, number) for slot, picture in zip(slots, seen, strict=True)])


def _pixels(job: Job) -> int:
    width, height = job.photo.size
    return width * height


def _too_little_memory(job: Job) -> ClassifierError:
    width, height = job.photo.size
    return ClassifierError(f"{job.photo.source} ({width}x{height}): out of memory; try a smaller photo or --device cpu")
