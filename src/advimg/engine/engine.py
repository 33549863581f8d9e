"""Many photos over one network: each live photo has a slot, all slots share each pass, a finished one is refilled.

A photo is finished when the *stock* view of the whole-level picture, through the untouched 32-bit network, shows the
target with the confidence asked for; what the gradient network believes only says when it is worth asking.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from advimg.attacks.losses import LOSSES
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.device import differentiable, repeatable
from advimg.classifiers.gradient import GradientNetwork
from advimg.engine.slot import Job, Result, Slot
from advimg.errors import ClassifierError
from advimg.settings import LossName, Precision


@dataclass(frozen=True, slots=True)
class StepReport:
    """Where one photo stands, as the gradient network sees it."""

    job: Job
    step: int
    confidence: float


Watcher = Callable[[StepReport], None]


class Engine:
    """Attacks photos on one classifier.

    Args:
        classifier: judges; never changed.
        precision: what gradients are computed in; "auto" decides by the device.
        slots: how many photos share a pass.
    """

    def __init__(self, classifier: Classifier, *, precision: Precision = "auto", slots: int = 1) -> None:
        self._classifier = classifier
        with differentiable():
            self._network = GradientNetwork(classifier, precision)
        self._slots = slots
        self.precision = self._network.precision

    def run(self, jobs: Iterable[Job], *, watch: Watcher | None = None) -> Iterator[Result]:
        """Attack each job's photo and yield results as they are ready, which need not be the order of the jobs.

        Args:
            jobs: consumed one by one, as slots become free.
            watch: called for each photo at each step.

        Raises:
            PhotoError: a photo's shape cannot be looked at.
            ClassifierError: the network's output is not finite logits.
        """
        waiting = iter(jobs)
        live: list[Slot] = []
        while True:
            with differentiable(), repeatable(self._classifier.device, exact=False):
                while len(live) < self._slots and (job := next(waiting, None)) is not None:
                    live.append(Slot(job, self._classifier))
                finished = self._advance(live, watch) if live else {}
            # Outside, for the caller's code runs here.
            yield from finished.values()
            live = [slot for slot in live if slot not in finished]
            if not finished and not live:
                return

    def _advance(self, live: list[Slot], watch: Watcher | None) -> dict[Slot, Result]:
        """Look at every slot's candidate once, finish the slots that are done, and move the others a step."""
        targets = torch.tensor([slot.job.target for slot in live], device=self._classifier.device)
        seen = torch.stack([slot.see() for slot in live]).requires_grad_()  # [n, 3, crop, crop]
        logits = self._network.logits(seen)  # [n, classes]
        finished: dict[Slot, Result] = {}
        moving: list[int] = []
        for position, standing in enumerate(_standings(logits.detach(), targets)):
            slot = live[position]
            if not math.isfinite(standing.log_confidence):
                raise ClassifierError(
                    f"{self._classifier.name} gives logits that are not finite (NaN) during the attack"
                )
            slot.keep_if_best(top1=standing.top1, log_confidence=standing.log_confidence)
            if watch is not None:
                watch(StepReport(slot.job, slot.steps, standing.confidence))
            if (result := self._reached(slot, standing)) is not None:
                finished[slot] = result
            elif not slot.out_of_steps:
                moving.append(position)
            elif not slot.restart():
                finished[slot] = self._best_attempt(slot)
        if moving:
            gradient = self._gradient(logits, targets, seen, [slot.job.settings.loss for slot in live])
            for position in moving:
                live[position].step(gradient[position])
        return finished

    def _gradient(self, logits: Tensor, targets: Tensor, seen: Tensor, losses: list[LossName]) -> Tensor:
        """Return each photo's gradient of its own loss with respect to what was seen, [n, 3, crop, crop]."""
        total = torch.zeros((), device=logits.device)
        for name in set(losses):
            chosen = [position for position, other in enumerate(losses) if other == name]
            total = total + LOSSES[name](logits[chosen], targets[chosen]).sum()
        (gradient,) = torch.autograd.grad(total, seen)
        return gradient

    def _reached(self, slot: Slot, standing: "_Standing") -> Result | None:
        """Return the result if the untouched classifier, too, finds the target in the present candidate."""
        wanted = slot.job.settings.confidence
        if not standing.top1 or standing.confidence < wanted:
            return None
        levels = slot.candidate_levels()
        verdict = self._classifier.judge(levels)
        if verdict.top1 != slot.job.target or verdict.confidence(slot.job.target) < wanted:
            return None
        return slot.result(levels, verdict, steps=slot.steps)

    def _best_attempt(self, slot: Slot) -> Result:
        levels = slot.best_levels()
        return slot.result(levels, self._classifier.judge(levels), steps=slot.best_steps)


class _Standing(NamedTuple):
    """Where the target stands among the logits of one candidate."""

    log_confidence: float
    top1: bool

    @property
    def confidence(self) -> float:
        return math.exp(min(0.0, self.log_confidence))


def _standings(logits: Tensor, targets: Tensor) -> list[_Standing]:
    """Read off where each photo's target stands: the one transfer from the device in a step."""
    log_confidence = torch.log_softmax(logits, dim=1).gather(1, targets[:, None]).squeeze(1)
    top1 = (logits.argmax(dim=1) == targets).float()
    return [_Standing(value, bool(top)) for value, top in torch.stack([log_confidence, top1], dim=1).tolist()]
