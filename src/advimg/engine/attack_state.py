"""One photo under attack: its tensors, from the first look to the last step."""

import math
import time
from collections.abc import Iterator, Sequence
from random import Random

import torch
from torch import Tensor

from advimg.attacks import l2, pgd
from advimg.attacks.eps_search import EpsSearch
from advimg.attacks.schedule import softness, step_size, temperature
from advimg.attacks.target_rules import choose_target
from advimg.attacks.transfer import diversify
from advimg.classifiers.classifier import Verdict
from advimg.classifiers.ensemble import Ensemble
from advimg.classifiers.preprocessing import ResizeCrop
from advimg.engine.criterion import Criterion, Judgement, criteria_for
from advimg.engine.job import Attempt, Job, Result
from advimg.images.photo import Levels

# Elementwise work goes in pieces that stay in a core's cache: on a 12-megapixel photo a third of the time of whole
# tensors, and no temporaries of their size. GPUs take the picture whole.
_PIECE = 1 << 17

_TINY = 1e-300
_WORST = (-1, float("-inf"))

# From so many refusals on, or after so many steps and half of all, gradients in bfloat16 have led nowhere.
_REFUSALS = 3
_PATIENCE = 20

# The share of a transfer attack's steps whose looks are diversified.
_DIVERSE = 0.9


class AttackState:
    """The state of one photo under attack.

    Only the window of the photo that the classifiers' views depend on is held; pixels outside it never change.
    Tensors of the window have shape [3, window height, window width] on the classifiers' device. What is given or
    taken for each classifier is in the order of the ensemble.
    """

    def __init__(self, job: Job, ensemble: Ensemble) -> None:
        self._began = time.perf_counter()
        self.job = job
        self._ensemble = ensemble
        self._before = ensemble.judge_photo(job.photo)
        first = ensemble.classifiers[0]
        self.criteria = criteria_for(_target(job, self._before[0]), first.labels, ensemble.classifiers, self._before)
        device = ensemble.device
        self._resize_crops = tuple(
            classifier.preprocessing.resize_crop(*job.photo.size, device) for classifier in ensemble.classifiers
        )
        self._window = _hull([resize_crop.window for resize_crop in self._resize_crops])
        self._photo = _planes(job.photo.levels[self._window]).to(device)
        self._free = None if job.mask is None else torch.from_numpy(job.mask.free[self._window].copy()).to(device)
        self._delta = torch.zeros(self._photo.shape, device=device)
        self._velocity = torch.zeros_like(self._delta)
        # First the candidate, then, once it has been seen and kept, the gradient.
        self._scratch = torch.empty_like(self._delta)
        self._best = self._photo.clone()
        # The mathematics of the norm, and how many levels its eps counts by.
        self._ball, self._unit = (pgd, 1) if job.settings.norm == "linf" else (l2, 255)
        self._generator = torch.Generator().manual_seed(job.settings.seed)
        self._precisions: dict[str, None] = {}
        self.gradients = 0
        eps = job.settings.eps
        self._search = EpsSearch(1, job.settings.max_eps) if eps == "auto" else EpsSearch(eps, eps)
        self._nearest: Attempt | None = None
        self._best_rank = _WORST
        self._restarts_left = job.settings.restarts
        self.best_steps = self.steps = 0
        self._refusals: set[int] = set()

    def see(self) -> list[Tensor]:
        """Return the current candidate as each classifier sees it, float levels [3, crop, crop]."""
        for delta, photo, out in self._pieces(self._delta, self._photo, self._scratch):
            pgd.candidate(delta, photo, out)
        return [resize_crop.forward(self._part(self._scratch, resize_crop)) for resize_crop in self._resize_crops]

    @property
    def diverse(self) -> bool:
        """Whether the candidate is looked at in ways of chance, and so cannot be judged by what is seen.

        The last steps look straight, until the classifiers that are attacked are fooled themselves.
        """
        settings = self.job.settings
        return settings.transfer and self.steps < math.floor(_DIVERSE * settings.max_steps)

    @property
    def temperature(self) -> float:
        """What the logits are divided by in the loss of the next step."""
        return temperature(self.job.settings, self.steps)

    @property
    def softness(self) -> tuple[float, float]:
        """How soft the derivatives are that the next step goes by, deep in the networks and before."""
        return softness(self.job.settings, self.steps)

    def diversified(self, seen: Tensor, number: int) -> Tensor:
        """Return what the classifier of this number saw, [3, crop, crop], in another way at every pass."""
        if not self.diverse:
            return seen
        # Not from a generator that goes on: a pass that ran out of memory is tried again.
        return diversify(seen, Random(f"{self.job.settings.seed} {self._restarts_left} {self.steps} {number}"))

    def keep_if_best(self, *, fooled: int, log_confidence: float) -> None:
        """Rank the candidate that was just seen: by how many classifiers it fools, then by the least confidence."""
        rank = (fooled, log_confidence)
        if rank > self._best_rank:
            self._best_rank = rank
            self._best.copy_(self._scratch)
            self.best_steps = self.steps

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Take one step along the losses' gradients with respect to what each classifier saw, [3, crop, crop]."""
        settings, eps = self.job.settings, self._search.eps
        alpha = step_size(settings, eps, self.steps) * self._unit
        self._gather(gradients)
        self._keep_to_mask(self._scratch)
        for delta, velocity, slope, photo in self._portions(self._delta, self._velocity, self._scratch, self._photo):
            self._ball.descend(delta, velocity, slope, step_size=alpha, momentum=settings.momentum)
            self._ball.project(delta, photo, eps * self._unit)
        self.steps += 1

    def passed(self, precision: str) -> None:
        """Count a pass through the network, and note its precision."""
        self.gradients += 1
        self._precisions[precision] = None

    def refused(self, verdicts: Sequence[Verdict]) -> None:
        """Note that the untouched classifiers do not see in the candidate what the gradient networks believe to see.

        To say it twice of one candidate makes no difference.
        """
        self._refusals.add(self.steps)
        if self.best_steps == self.steps:  # it is the best so far, but not by as much as was believed
            met = sum(map(Criterion.met, self.criteria, verdicts))
            self._best_rank = (met, math.log(max(self._least(verdicts), _TINY)))

    @property
    def eps(self) -> float:
        """The eps that is tried now."""
        return self._search.eps

    @property
    def exact(self) -> bool:
        """Whether only gradients in 32 bits can help: others have led nowhere.

        Once true it stays so, unless there is a restart.
        """
        return len(self._refusals) >= _REFUSALS or self.steps > max(_PATIENCE, self.job.settings.max_steps // 2)

    def restart(self) -> None:
        """Begin again at a random point of the ε-ball; the best so far is kept."""
        self._restarts_left -= 1
        self._ball.random_start(self._delta, self._photo, self._search.eps * self._unit, self._generator)
        self._keep_to_mask(self._delta)
        self._count_anew()

    def attempt(self, levels: Levels, verdicts: Sequence[Verdict], *, steps: int) -> Attempt:
        """Sum up what came of the present eps: ``levels``, in which the classifiers see ``verdicts``."""
        return Attempt(levels, tuple(verdicts), self._search.eps, steps, self.reached(verdicts))

    def end_trial(self, attempt: Attempt) -> Attempt | None:
        """Note what came of the present eps; where the least is looked for, go on to the next with what is there.

        Returns:
            What the attack ends with; None if it goes on.
        """
        if self._nearest is None or attempt.reached or not self._nearest.reached:
            self._nearest = attempt
        before = self._search.eps
        gradients = self.gradients - sum(trial.gradients for trial in self._search.tried)
        confidence = self._least(attempt.verdicts)
        if not self._search.end_trial(reached=attempt.reached, confidence=confidence, gradients=gradients):
            return self._nearest
        eps = self._search.eps
        for delta, photo in self._portions(self._delta, self._photo):
            self._ball.project(delta.mul_(min(1.0, eps / before)), photo, eps * self._unit)
        self._count_anew()
        self._best_rank = _WORST
        self._restarts_left = self.job.settings.restarts
        self.best_steps = 0
        return None

    @property
    def out_of_steps(self) -> bool:
        """Whether this start has taken all the steps it may."""
        return self.steps >= self.job.settings.max_steps

    @property
    def out_of_starts(self) -> bool:
        """Whether this start has taken all the steps it may, and is the last."""
        return self.out_of_steps and self._restarts_left == 0

    def reached(self, verdicts: Sequence[Verdict]) -> bool:
        """Tell whether every classifier sees what it shall, with the confidence asked for."""
        return (
            all(map(Criterion.met, self.criteria, verdicts))
            and self._least(verdicts) >= self.job.settings.min_confidence
        )

    def candidate_levels(self) -> Levels:
        """Return the picture that was just seen, whole, [height, width, 3], uint8."""
        return self._whole(self._scratch.to(torch.uint8))

    def best_levels(self) -> Levels:
        """Return the best picture so far, whole, [height, width, 3], uint8."""
        return self._whole(self._best)

    def result(self, attempt: Attempt) -> Result:
        """Sum up what was done to reach an attempt."""
        return Result(
            job=self.job,
            levels=attempt.levels,
            eps=attempt.eps,
            tried=tuple(self._search.tried) if self.job.settings.eps == "auto" else (),
            judgements=tuple(
                map(Judgement.of, self._ensemble.classifiers, self.criteria, self._before, attempt.verdicts)
            ),
            steps=attempt.steps,
            gradients=self.gradients,
            seconds=time.perf_counter() - self._began,
            precision=", then ".join(self._precisions),
        )

    def _count_anew(self) -> None:
        """Begin another start: nothing of the last steps goes on but where they led."""
        self._velocity.zero_()
        self.steps = 0
        self._refusals.clear()

    def _least(self, verdicts: Sequence[Verdict]) -> float:
        """Return the confidence of the classifier that is least sure of what it shall see."""
        return min(map(Criterion.confidence, self.criteria, verdicts))

    def _gather(self, gradients: Sequence[Tensor]) -> None:
        """Carry the gradients back to the window, into the scratch: their mean, each normalised before."""
        if len(gradients) == 1:
            pgd.normalise(self._resize_crops[0].backward(gradients[0], out=self._scratch))
            return
        self._scratch.zero_()
        for gradient, resize_crop in zip(gradients, self._resize_crops, strict=True):
            part = self._part(self._scratch, resize_crop)
            part += pgd.normalise(resize_crop.backward(gradient, out=torch.empty_like(part)))
        pgd.normalise(self._scratch)

    def _keep_to_mask(self, values: Tensor) -> None:
        """Set to zero what lies where nothing may be changed: no gradient there, no step."""
        if self._free is not None:
            values.mul_(self._free)

    def _part(self, picture: Tensor, resize_crop: ResizeCrop) -> Tensor:
        """Return that part of the window on which one classifier's view depends."""
        places = zip(resize_crop.window, self._window, strict=True)
        rows, columns = (slice(own.start - whole.start, own.stop - whole.start) for own, whole in places)
        return picture[:, rows, columns]

    def _whole(self, window: Tensor) -> Levels:
        levels = self.job.photo.levels.copy()
        levels[self._window] = window.permute(1, 2, 0).cpu().numpy()
        return levels

    def _portions(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield what the step may be taken in: pieces, but for a norm that is a matter of all pixels together."""
        return self._pieces(*tensors) if self._ball is pgd else iter([tensors])

    def _pieces(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        size = _PIECE if self._delta.device.type == "cpu" else self._delta.numel()
        return zip(*(torch.split(tensor.view(-1), size) for tensor in tensors), strict=True)


def _target(job: Job, before: Verdict) -> int | None:
    """Return the class that a job is after; None if any other will do."""
    if job.target == "untargeted":
        return None
    if isinstance(job.target, int):
        return job.target
    return choose_target(job.target, before.probabilities, seed=f"{job.settings.seed} {job.photo.sha256}")


def _hull(windows: Sequence[tuple[slice, slice]]) -> tuple[slice, slice]:
    """Return the smallest rows and columns that hold all windows."""
    rows, columns = (
        slice(min(window.start for window in axis), max(window.stop for window in axis))
        for axis in zip(*windows, strict=True)
    )
    return rows, columns


def _planes(levels: Levels) -> Tensor:
    """Turn [height, width, 3] into a contiguous tensor [3, height, width], uint8."""
    return torch.from_numpy(levels.transpose(2, 0, 1).copy())
