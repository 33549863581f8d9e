"""One photo under attack: its tensors, its window, its accounts. How the picture moves is the attack's business."""

import math
import time
from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from advimg.attacks.base import Attack, Evaluation, normalise
from advimg.attacks.eps_search import EpsSearch
from advimg.attacks.refine import Refine, visibility
from advimg.attacks.target_rules import choose_target
from advimg.classifiers.classifier import Verdict
from advimg.classifiers.ensemble import Ensemble
from advimg.engine.criterion import Criterion, Judgement, criteria_for
from advimg.engine.job import Attempt, Job, Result
from advimg.engine.paths import Path, TransformedPath
from advimg.images.photo import Levels
from advimg.registry import ATTACKS
from advimg.transforms.base import apply_all, transforms_named

_TINY = 1e-300
_WORST = (-1, float("-inf"))

# From so many rejections on, or after so many steps and half of all, gradients in bfloat16 have led nowhere.
_REJECTIONS = 3
_PATIENCE = 20

# In refinement a verdict is asked for where a candidate shows so much less than the last that was confirmed.
_WORTH = 0.6


class AttackState:
    """The state of one photo under attack.

    Only the window of the photo that the classifiers' preprocessing depends on is held; pixels outside it never change.
    Tensors of the window have shape [3, window height, window width] on the classifiers' device. What is given or
    taken for each classifier is in the order of the ensemble.
    """

    def __init__(self, job: Job, ensemble: Ensemble) -> None:
        self._began = time.perf_counter()
        self.job = job
        self._ensemble = ensemble
        self._before = ensemble.judge_photo(job.photo)
        classifiers, device = ensemble.classifiers, ensemble.device
        self.criteria = criteria_for(_target(job, self._before[0]), classifiers[0].labels, classifiers, self._before)
        resize_crops = [each.preprocessing.resize_crop(*job.photo.size, device) for each in classifiers]
        self._window = _hull([resize_crop.window for resize_crop in resize_crops])
        photo = _planes(job.photo.levels[self._window]).to(device)
        free = None if job.mask is None else torch.from_numpy(job.mask.free[self._window].copy()).to(device)
        eps, names = job.settings.eps, job.settings.transform_names
        self._search = EpsSearch(1, job.settings.max_eps) if eps == "auto" else EpsSearch(eps, eps)
        self.attack: Attack = ATTACKS[job.settings.attack](photo, job.settings, self._search.eps, free)
        self._input_transforms = transforms_named(names, "input")
        self._paths = [Path(resize_crop, self._window) for resize_crop in resize_crops]
        if transforms := transforms_named(names, "photo"):
            whole = _planes(job.photo.levels).to(device, torch.float32)
            self._paths = [
                TransformedPath(path, whole, transforms, each)
                for path, each in zip(self._paths, classifiers, strict=True)
            ]
        self._transformable = bool(names)
        # First the candidate, then, once it has been evaluated and kept, the gradient.
        self._scratch = torch.empty(photo.shape, device=device)
        self._best = photo.clone()
        self._best_rank = _WORST
        self.best_steps = 0
        self._nearest: Attempt | None = None
        self._refined: Attempt | None = None
        self._refined_visibility = math.inf
        self._steps_before = 0
        self._precisions: dict[str, None] = {}
        self._rejections: set[int] = set()
        self.gradients = 0

    def inputs(self) -> list[Tensor]:
        """Return the current candidate as each network gets it, float levels [3, crop, crop]."""
        self.attack.propose(self._scratch)
        return [path.forward(self._scratch, self._draw(number)) for number, path in enumerate(self._paths)]

    @property
    def transformed(self) -> bool:
        """Whether the candidate goes through transforms, so that what networks make of it does not judge the file."""
        return self._transformable and self.attack.transformed

    def transform_input(self, levels: Tensor, number: int) -> Tensor:
        """Return what the network of this number gets, [3, crop, crop], after the transforms of its input."""
        draw = self._draw(number)
        return levels if draw is None else apply_all(self._input_transforms, levels, draw)

    @property
    def steps(self) -> int:
        """How many steps led to the candidate from its start, those that reached the target and those of refinement."""
        return self._steps_before + self.attack.steps

    @property
    def refining(self) -> bool:
        """Whether the target is reached, and the change is being made less visible."""
        return self._refined is not None

    def refine(self, attempt: Attempt) -> bool:
        """Begin to make the change of the picture that the attack would end with less visible; tell whether it did."""
        if not attempt.reached or not attempt.steps or not self.job.settings.refine_steps:
            return False
        self._refined = attempt
        change = attempt.levels[self._window].astype(int) - self.job.photo.levels[self._window]
        self._refined_visibility = visibility(torch.from_numpy(change).float())
        self._steps_before = attempt.steps
        self._rejections.clear()
        self.attack = Refine(self.attack.photo, self.job.settings, attempt.eps, self.attack.free)
        return True

    @property
    def worth_judging(self) -> bool:
        """Whether the candidate is so much less visible than the last that was confirmed that a verdict is worth it."""
        assert isinstance(self.attack, Refine)
        share = 1.0 if self.attack.out_of_steps else _WORTH
        return self.attack.visibility < share * self._refined_visibility

    def keep_refined(self, attempt: Attempt) -> None:
        """Keep a candidate that the untouched classifiers confirm."""
        assert isinstance(self.attack, Refine)
        self._refined = attempt
        self._refined_visibility = self.attack.visibility

    @property
    def refined(self) -> Attempt:
        """The least visible picture that the untouched classifiers have confirmed."""
        assert self._refined is not None
        return self._refined

    def least_log_confidence(self, verdicts: Sequence[Verdict]) -> float:
        """Return the logarithm of the confidence of the classifier that is least sure of what is wanted."""
        return math.log(max(self._least(verdicts), _TINY))

    def keep_if_best(self, *, fooled: int, log_confidence: float) -> None:
        """Rank the candidate just evaluated: by how many classifiers it fools, then by the least confidence."""
        rank = (fooled, log_confidence)
        if rank > self._best_rank:
            self._best_rank = rank
            self._best.copy_(self._scratch)
            self.best_steps = self.attack.steps

    def step(self, gradients: Sequence[Tensor], evaluation: Evaluation) -> None:
        """Have the attack take a step along the gradients with respect to each network's input, [3, crop, crop]."""
        self._gather(gradients)
        self.attack.update(self._scratch, evaluation)

    def count_pass(self, precision: str) -> None:
        """Count a pass through the network, and note its precision."""
        self.gradients += 1
        self._precisions[precision] = None

    def reject(self, verdicts: Sequence[Verdict]) -> None:
        """Note that the untouched classifiers do not confirm what the gradient networks made of the candidate.

        To reject one candidate twice makes no difference.
        """
        self._rejections.add(self.attack.steps)
        if self.best_steps == self.attack.steps:  # it is the best so far, but not by as much as was believed
            met = sum(map(Criterion.met, self.criteria, verdicts))
            self._best_rank = (met, self.least_log_confidence(verdicts))

    @property
    def exact(self) -> bool:
        """Whether only gradients in 32 bits can help: others have led nowhere.

        Once true it stays so, unless there is a restart.
        """
        late = self.attack.steps > max(_PATIENCE, self.job.settings.max_steps // 2)
        return late or len(self._rejections) >= _REJECTIONS

    def restart(self) -> None:
        """Have the attack begin again; the best so far is kept."""
        self.attack.restart()
        self._rejections.clear()

    def attempt(self, levels: Levels, verdicts: Sequence[Verdict], *, steps: int) -> Attempt:
        """Sum up the present eps: ``levels``, for which the classifiers give ``verdicts``."""
        return Attempt(levels, tuple(verdicts), self.attack.eps, steps, self.reached(verdicts))

    def end_trial(self, attempt: Attempt) -> Attempt | None:
        """Note the result of the present eps and, where the least is searched for, go on to the next from this point.

        Returns:
            What the attack ends with; None if it goes on.
        """
        if self._nearest is None or attempt.reached or not self._nearest.reached:
            self._nearest = attempt
        gradients = self.gradients - sum(trial.gradients for trial in self._search.tried)
        confidence = self._least(attempt.verdicts)
        if not self._search.end_trial(reached=attempt.reached, confidence=confidence, gradients=gradients):
            return self._nearest
        self.attack.change_eps(self._search.eps)
        self._rejections.clear()
        self._best_rank = _WORST
        self.best_steps = 0
        return None

    @property
    def out_of_starts(self) -> bool:
        """Whether this start has taken all the steps it may, and is the last."""
        return self.attack.out_of_steps and self.attack.restarts_left == 0

    def reached(self, verdicts: Sequence[Verdict]) -> bool:
        """Tell whether every classifier's verdict is what is wanted, with the confidence asked for."""
        met = all(map(Criterion.met, self.criteria, verdicts))
        return met and self._least(verdicts) >= self.job.settings.min_confidence

    def candidate_levels(self) -> Levels:
        """Return the picture that was just evaluated, whole, [height, width, 3], uint8."""
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

    def _draw(self, number: int) -> Random | None:
        """Return where the transforms of a network's pass take their chance from; None if the pass goes without.

        Not a generator that goes on: a pass that ran out of memory is tried again.
        """
        if not self.transformed:
            return None
        return Random(f"{self.job.settings.seed} {self.attack.restarts_left} {self.attack.steps} {number}")

    def _least(self, verdicts: Sequence[Verdict]) -> float:
        """Return the confidence of the classifier that is least sure of what is wanted."""
        return min(map(Criterion.confidence, self.criteria, verdicts))

    def _gather(self, gradients: Sequence[Tensor]) -> None:
        """Carry the gradients back to the window, into the scratch; of several, the mean, each normalised before."""
        if len(gradients) == 1:
            self._paths[0].backward(gradients[0], out=self._scratch)
            return
        self._scratch.zero_()
        for gradient, path in zip(gradients, self._paths, strict=True):
            part = path.part(self._scratch)
            part += normalise(path.backward(gradient, out=torch.empty_like(part)))

    def _whole(self, window: Tensor) -> Levels:
        levels = self.job.photo.levels.copy()
        levels[self._window] = window.permute(1, 2, 0).cpu().numpy()
        return levels


def _target(job: Job, before: Verdict) -> int | None:
    """Return the class that a job aims at; None if any other will do."""
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
