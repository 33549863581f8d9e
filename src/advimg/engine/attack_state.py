"""One photo under attack: its tensors, its window, its accounts. How the picture moves is the attack's business."""

import math
import time
from collections.abc import Sequence
from random import Random

import torch
from PIL import Image
from torch import Tensor

from advimg.attacks.base import Attack, Evaluation, normalise
from advimg.attacks.eps_search import EpsSearch
from advimg.attacks.refine import Refine, log_odds, visibility
from advimg.attacks.target_rules import choose_target
from advimg.classifiers.classifier import Verdict
from advimg.classifiers.ensemble import Ensemble
from advimg.engine.criterion import Criterion, criteria_for
from advimg.engine.forward import Score
from advimg.engine.job import Attempt, Job, Result
from advimg.engine.paths import ChangedPath, Path
from advimg.engine.verdicts import Verdicts, judge, judgements
from advimg.engine.views import Views
from advimg.images.photo import Levels
from advimg.registry import ATTACKS
from advimg.transforms.base import check_size
from advimg.transforms.diversity import diversified

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
        eps, changes = job.settings.eps, job.settings.changes
        for case in job.settings.cases:
            check_size(case, *job.photo.size, source=job.photo.source)
        self._search = EpsSearch(1, job.settings.max_eps) if eps == "auto" else EpsSearch(eps, eps)
        self.attack: Attack = ATTACKS[job.settings.attack](photo, job.settings, self._search.eps, free)
        self._paths = [Path(resize_crop, self._window) for resize_crop in resize_crops]
        self.views = Views(changes)
        self._changed: list[ChangedPath] = []
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

    def inputs(self) -> list[list[Tensor]]:
        """Return what each network gets in a pass, each [3, crop, crop], float levels.

        First the current candidate itself, then what changes make of it.
        """
        self.attack.propose(self._scratch)
        changes = self.views.choose(self._draw("views"))
        picture = Image.fromarray(self.candidate_levels()) if changes else None
        self._changed = [ChangedPath(each, picture, self._ensemble.device) for each in changes if picture is not None]
        return [
            [path.forward(self._scratch), *(each.forward(classifier.preprocessing) for each in self._changed)]
            for path, classifier in zip(self._paths, self._ensemble.classifiers, strict=True)
        ]

    @property
    def diversified(self) -> bool:
        """Whether the networks' inputs are altered by chance, so that what comes of them does not judge the file."""
        return self.job.settings.transfer and self.attack.diversified

    def diversify(self, levels: Tensor, number: int) -> Tensor:
        """Alter what the network of this number gets, [3, crop, crop], if this pass is to."""
        return diversified(levels, self._draw(number)) if self.diversified else levels

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

    def judge(self, levels: Levels, *, whole: bool = False) -> Verdicts:
        """Have the untouched classifiers judge a picture, and what each change that it is to survive makes of it.

        Args:
            levels: of the picture.
            whole: whether to go on after a verdict that is not what is wanted.
        """
        verdicts = judge(self._ensemble, levels, self.views.cases, lambda last: whole or self._holds(last))
        for change, each in verdicts.changed.items():
            self.views.note(change, log_odds(math.log(max(self._least(each), _TINY))))
        return verdicts

    def least_log_confidence(self, verdicts: Verdicts) -> float:
        """Return the logarithm of the confidence of the classifier that is least sure of what is wanted."""
        return math.log(max(min(map(self._least, verdicts.all)), _TINY))

    def keep_if_best(self, *, fooled: int, log_confidence: float) -> None:
        """Rank the candidate just evaluated: by how many classifiers it fools, then by the least confidence."""
        rank = (fooled, log_confidence)
        if rank > self._best_rank:
            self._best_rank = rank
            self._best.copy_(self._scratch)
            self.best_steps = self.attack.steps

    def gather(self, gradients: Sequence[Tensor]) -> None:
        """Carry gradients back to the window, in the place of the candidate; of several networks each is normalised.

        It takes memory, and changes nothing that the pass would need if it had to be repeated.

        Args:
            gradients: for each network, with respect to all of its inputs, [views, 3, crop, crop].
        """
        self._gather(gradients)
        self._changed = []

    def step(self, scores: Sequence[Score], evaluation: Evaluation) -> None:
        """Have the attack take a step along the gradient that was gathered.

        Args:
            scores: of the views.
            evaluation: of the candidate.
        """
        self.views.note_pass(log_odds(score.log_confidence) for score in scores[1:])
        self.attack.update(self._scratch, evaluation)

    def count_pass(self, precision: str) -> None:
        """Count a pass of each view through the network, and note its precision."""
        self.gradients += self.views.count
        self._precisions[precision] = None

    def reject(self, verdicts: Verdicts) -> None:
        """Note that the untouched classifiers do not confirm what the gradient networks made of the candidate.

        To reject one candidate twice makes no difference.
        """
        self._rejections.add(self.attack.steps)
        if self.best_steps == self.attack.steps:  # it is the best so far, but not by as much as was believed
            met = sum(sum(map(Criterion.met, self.criteria, each)) for each in verdicts.all)
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

    def attempt(self, levels: Levels, verdicts: Verdicts, *, steps: int) -> Attempt:
        """Sum up the present eps: ``levels``, for which the classifiers give ``verdicts``."""
        return Attempt(levels, verdicts, self.attack.eps, steps, self.reached(verdicts))

    def end_trial(self, attempt: Attempt) -> Attempt | None:
        """Note the result of the present eps and, where the least is searched for, go on to the next from this point.

        Returns:
            What the attack ends with; None if it goes on.
        """
        if self._nearest is None or attempt.reached or not self._nearest.reached:
            self._nearest = attempt
        gradients = self.gradients - sum(trial.gradients for trial in self._search.tried)
        confidence = min(map(self._least, attempt.verdicts.all))
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

    def reached(self, verdicts: Verdicts) -> bool:
        """Tell whether every verdict is what is wanted, with the confidence asked for."""
        return len(verdicts.changed) == len(self.views.cases) and all(map(self._holds, verdicts.all))

    def candidate_levels(self) -> Levels:
        """Return the picture that was just evaluated, whole, [height, width, 3], uint8; not after :meth:`gather`."""
        return self._whole(self._scratch.to(torch.uint8))

    def proposed_levels(self) -> Levels:
        """Return the same picture, until the next step."""
        candidate = torch.empty_like(self._scratch)
        self.attack.propose(candidate)
        return self._whole(candidate.to(torch.uint8))

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
            judgements=judgements(self._ensemble, self.criteria, self._before, self._ordered(attempt.verdicts)),
            steps=attempt.steps,
            gradients=self.gradients,
            seconds=time.perf_counter() - self._began,
            precision=", then ".join(self._precisions),
        )

    def _ordered(self, verdicts: Verdicts) -> Verdicts:
        """Return verdicts in the order in which the changes were given."""
        return Verdicts(verdicts.plain, {each: verdicts.changed[each] for each in self.job.settings.cases})

    def _draw(self, what: int | str) -> Random:
        """Return where this pass takes its chance from, for one thing.

        Not a generator that goes on: a pass that ran out of memory is tried again.
        """
        return Random(f"{self.job.settings.seed} {self.attack.restarts_left} {self.attack.steps} {what}")

    def _holds(self, verdicts: Sequence[Verdict]) -> bool:
        """Tell whether each classifier's verdict is what is wanted, with the confidence asked for."""
        met = all(map(Criterion.met, self.criteria, verdicts))
        return met and self._least(verdicts) >= self.job.settings.min_confidence

    def _least(self, verdicts: Sequence[Verdict]) -> float:
        """Return the confidence of the classifier that is least sure of what is wanted."""
        return min(map(Criterion.confidence, self.criteria, verdicts))

    def _gather(self, gradients: Sequence[Tensor]) -> None:
        """Carry gradients back into the scratch."""
        if len(gradients) == 1 and not self._changed:
            self._paths[0].backward(gradients[0][0], out=self._scratch)
            return
        self._scratch.zero_()
        for slopes, path, classifier in zip(gradients, self._paths, self._ensemble.classifiers, strict=True):
            part = path.part(self._scratch)
            carried = path.backward(slopes[0], out=torch.empty_like(part))
            if self._changed:
                whole = torch.zeros_like(self._scratch)
                path.part(whole).copy_(carried)
                for slope, changed in zip(slopes[1:], self._changed, strict=True):
                    whole += changed.backward(slope, classifier.preprocessing)[:, *self._window]
                part, carried = self._scratch, whole
            part += normalise(carried) if len(gradients) > 1 else carried

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
