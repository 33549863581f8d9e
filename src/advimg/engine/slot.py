"""One photo under attack: its tensors, from the first look to the last step."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from advimg.attacks import pgd
from advimg.attacks.targets import choose_target
from advimg.classifiers.classifier import Classifier, Verdict
from advimg.errors import AdvimgError
from advimg.images.photo import Levels, Photo
from advimg.settings import Settings, TargetRule

# Elementwise work goes in pieces that stay in a core's cache: on a 12-megapixel photo a third of the time of whole
# tensors, and no temporaries of their size. GPUs take the picture whole.
_PIECE = 1 << 17


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """A photo, the class it shall be taken for, and how to go about it.

    Attributes:
        target: the index of the class, or the rule that chooses it once the classifier has seen the photo;
            "untargeted" goes away from the class that is seen, to whichever other.
    """

    photo: Photo
    target: int | TargetRule
    settings: Settings


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """What came of a job.

    Attributes:
        target: the index of the class that was aimed at; without a target, of the other class that was reached, or
            that came nearest.
        fooled: whether ``after`` shows the target.
        levels: the adversarial picture, [height, width, 3], uint8: the best that was found.
        before: what the classifier sees in the photo.
        after: what it sees in ``levels``, through its official preprocessing.
        steps: how many steps led to ``levels`` from its start.
        gradients: passes through the network, of all starts; the last needs no way back.
        seconds: from the first look to the verdict.
    """

    job: Job
    target: int
    levels: Levels
    before: Verdict
    after: Verdict
    fooled: bool
    steps: int
    gradients: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Failed:
    """A job that ended without a result, and why."""

    job: Job
    error: AdvimgError


class Slot:
    """The state of one photo under attack.

    Only the window of the photo that the classifier's view depends on is held; pixels outside it never change.
    Tensors of the window have shape [3, window height, window width] on the classifier's device.
    """

    def __init__(self, job: Job, classifier: Classifier, before: Verdict) -> None:
        self._began = time.perf_counter()
        self.job = job
        self._before = before
        self.target = _target(job, before)
        self.away = job.target == "untargeted"
        device = classifier.device
        self._twin = classifier.view.twin(*job.photo.size, device)
        self._photo = _planes(job.photo.levels[self._twin.window]).to(device)
        self._delta = torch.zeros(self._photo.shape, device=device)
        self._velocity = torch.zeros_like(self._delta)
        # First the candidate, then, once it has been seen and kept, the gradient.
        self._scratch = torch.empty_like(self._delta)
        self._best = self._photo.clone()
        self._best_rank = (False, float("-inf"))
        self._generator = torch.Generator().manual_seed(job.settings.seed)
        self._restarts_left = job.settings.restarts
        self.best_steps = 0
        self.steps = 0
        self.gradients = 0

    def see(self) -> Tensor:
        """Return the current candidate as the classifier sees it, float levels [3, crop, crop]."""
        for delta, photo, out in self._pieces(self._delta, self._photo, self._scratch):
            pgd.candidate(delta, photo, out)
        return self._twin.see(self._scratch)

    def keep_if_best(self, *, top1: bool, log_confidence: float) -> None:
        """Rank the candidate that was just seen: reaching top-1 comes first, then the target's confidence."""
        rank = (top1, log_confidence)
        if rank > self._best_rank:
            self._best_rank = rank
            self._best.copy_(self._scratch)
            self.best_steps = self.steps

    def step(self, gradient: Tensor) -> None:
        """Take one step along the loss's gradient with respect to what was seen, [3, crop, crop]."""
        settings = self.job.settings
        pgd.normalise(self._twin.gradient(gradient, out=self._scratch))
        for delta, velocity, slope, photo in self._pieces(self._delta, self._velocity, self._scratch, self._photo):
            pgd.descend(delta, velocity, slope, step_size=settings.alpha, momentum=settings.momentum)
            pgd.project(delta, photo, settings.eps)
        self.steps += 1

    def restart(self) -> None:
        """Begin again at a random point of the ε-ball; the best so far is kept."""
        self._restarts_left -= 1
        pgd.random_start(self._delta, self._photo, self.job.settings.eps, self._generator)
        self._velocity.zero_()
        self.steps = 0

    @property
    def out_of_steps(self) -> bool:
        """Whether this start has taken all the steps it may."""
        return self.steps >= self.job.settings.steps

    @property
    def out_of_starts(self) -> bool:
        """Whether this start has taken all the steps it may, and is the last."""
        return self.out_of_steps and self._restarts_left == 0

    def fooled(self, verdict: Verdict) -> bool:
        """Tell whether a verdict is what the attack is after: the target, or any class but that which it leaves."""
        return (verdict.top1 == self.target) != self.away

    def confidence(self, verdict: Verdict) -> float:
        """Return how sure a verdict is of that, 0..1."""
        confidence = verdict.confidence(self.target)
        return 1 - confidence if self.away else confidence

    def candidate_levels(self) -> Levels:
        """Return the picture that was just seen, whole, [height, width, 3], uint8."""
        return self._whole(self._scratch.to(torch.uint8))

    def best_levels(self) -> Levels:
        """Return the best picture so far, whole, [height, width, 3], uint8."""
        return self._whole(self._best)

    def result(self, levels: Levels, verdict: Verdict, *, steps: int) -> Result:
        """Sum up what was done to reach ``levels``."""
        return Result(
            job=self.job,
            target=self._reached(verdict) if self.away else self.target,
            levels=levels,
            before=self._before,
            after=verdict,
            fooled=self.fooled(verdict),
            steps=steps,
            gradients=self.gradients,
            seconds=time.perf_counter() - self._began,
        )

    def _reached(self, verdict: Verdict) -> int:
        """Return the most probable class but that which the attack leaves."""
        first, *others = (guess.index for guess in verdict.top(2))
        return first if first != self.target or not others else others[0]

    def _whole(self, window: Tensor) -> Levels:
        levels = self.job.photo.levels.copy()
        levels[self._twin.window] = window.permute(1, 2, 0).cpu().numpy()
        return levels

    def _pieces(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        size = _PIECE if self._delta.device.type == "cpu" else self._delta.numel()
        return zip(*(torch.split(tensor.view(-1), size) for tensor in tensors), strict=True)


def _target(job: Job, before: Verdict) -> int:
    if isinstance(job.target, int):
        return job.target
    return choose_target(job.target, before.probabilities, seed=f"{job.settings.seed} {job.photo.sha256}")


def _planes(levels: Levels) -> Tensor:
    """Turn [height, width, 3] into a contiguous tensor [3, height, width], uint8."""
    return torch.from_numpy(levels.transpose(2, 0, 1).copy())
