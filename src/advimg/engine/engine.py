"""The engine: many photos share each pass over one network, or several, and finished ones are replaced.

A photo is finished when the whole-level picture, through the *stock* preprocessing and the untouched 32-bit network, is
the target with the confidence asked for; the gradient network's output only says when that is worth asking. Several
networks are attacked together: the photo is finished when all of them are fooled.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import accumulate, chain, repeat
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor

from advimg.attacks.base import Evaluation
from advimg.attacks.refine import log_odds
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.device import differentiable, is_out_of_memory, repeatable
from advimg.classifiers.ensemble import Ensemble
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.classifiers.gradient.precision import chosen
from advimg.engine.attack_state import AttackState
from advimg.engine.capacity import BatchSize, Capacity, bytes_of, bytes_of_changes, free_cached
from advimg.engine.forward import ForwardPass, Score, forward, least
from advimg.engine.job import Attempt, Failed, Job, Result
from advimg.engine.queue import JobQueue, JobSource
from advimg.engine.step_report import StepReport, Watcher, offered
from advimg.engine.views import Views
from advimg.errors import AdvimgError, ClassifierError
from advimg.settings import Precision

Ended = dict[AttackState, Result | Failed]
Turn = Attempt | Failed | Literal["step", "restart"]


class Engine:
    """Attacks photos on one classifier, or on several at once.

    Args:
        classifiers: judge; never changed.
        precision: what gradients are computed in; "auto" measures on the first photos what is quicker here. Photos that
            bf16 does not get anywhere with go on in fp32.
        batch_size: how many pictures share a pass, where a photo counts once, and once more for each change that it is
            to survive; "auto" decides by the device and its memory. The views of one photo share it in any case.
    """

    def __init__(self, *classifiers: Classifier, precision: Precision = "auto", batch_size: BatchSize = "auto") -> None:
        self._ensemble = Ensemble(classifiers)
        with differentiable():
            self._networks = tuple(GradientNetwork(classifier, precision) for classifier in classifiers)
        self._capacity = Capacity.of(self._ensemble.device, batch_size)
        # For how many pictures a pass the precision has been chosen; it is not the same for one and for several.
        measured = precision == "auto" and self._ensemble.device.type == "cpu"
        self._chosen_for = 0 if measured else math.inf
        self.choices = tuple(network.reason for network in self._networks if network.reason)
        self._in_company = False

    @property
    def precision(self) -> str:
        """What gradients are computed in; of several networks, each."""
        return _precision_of(self._networks)

    @property
    def batch_size(self) -> int:
        """How many pictures share a pass; halved whenever the device's memory does not hold them."""
        return self._capacity.batch_size

    def attack(self, job: Job, *, watch: Watcher | None = None) -> Result:
        """Attack one photo.

        Raises:
            PhotoError: the photo is too long and thin for the preprocessing.
            ClassifierError: the network's output is not finite logits, or memory is too short for the photo.
        """
        (ended,) = self._run([job], watch=watch, stop=lambda: False, share=1)
        if isinstance(ended, Failed):
            raise ended.error
        return ended

    def run(
        self,
        jobs: Iterable[Job] | JobSource,
        *,
        watch: Watcher | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Result | Failed]:
        """Attack each job's photo and yield results as they are ready, which need not be the order of the jobs.

        Args:
            jobs: taken one by one, as photos finish.
            watch: called for each photo at each step.
            stop: asked before each step; once it is true, photos that are not finished are dropped.
        """
        return self._run(jobs, watch=watch, stop=stop, share=self.batch_size)

    def _run(
        self, jobs: Iterable[Job] | JobSource, *, watch: Watcher | None, stop: Callable[[], bool], share: int
    ) -> Iterator[Result | Failed]:
        """Attack as :meth:`run` does, where so many pictures may be expected to share a pass."""
        self._in_company = share > 1
        queue = JobQueue(jobs)
        live: list[AttackState] = []
        while not stop():
            with differentiable(), repeatable(self._ensemble.device, exact=False):
                failed = self._admit(queue, live)
                if live and self._chosen_for < (rows := max(share, live[0].views.most)):
                    self._choose(live[0], rows)
                ended = self._advance(live, watch) if live else {}
            live = [state for state in live if state not in ended]
            # Outside, for the caller's code runs here.
            yield from failed
            yield from ended.values()
            if not live and not failed and not ended:
                return

    def _admit(self, queue: JobQueue, live: list[AttackState]) -> list[Failed]:
        """Admit photos up to the batch size; return the jobs that cannot be attacked at all."""
        failed: list[Failed] = []
        while _rows(live) < self.batch_size and (job := queue.take(wait=not live and not failed)) is not None:
            try:
                if live and not self._has_room(live, job):
                    queue.put_back(job)
                    break
                if bytes_of_changes(job) > self._capacity.memory:
                    raise _too_little_memory(job)
                live.append(AttackState(job, self._ensemble))
            except AdvimgError as error:
                # Its traceback would hold this frame, and with it all live photos, until garbage collection.
                failed.append(Failed(job, error.with_traceback(None)))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if live:
                    queue.put_back(job)
                    self._capacity.batch_size = _rows(live)
                    break
                failed.append(Failed(job, _too_little_memory(job)))
        return failed

    def _has_room(self, live: Sequence[AttackState], job: Job) -> bool:
        """Tell whether a photo fits beside those that are live: its views into a pass, all it takes into memory."""
        rows = _rows(live) + Views(job.settings.changes).most
        taken = sum(bytes_of(state.job) for state in live) + bytes_of(job)
        return rows <= self.batch_size and taken <= self._capacity.memory // 4

    def _advance(self, live: Sequence[AttackState], watch: Watcher | None) -> Ended:
        """Move every photo on by one pass, in as many passes as memory asks for; return those that ended."""
        ended: Ended = {}
        size = self.batch_size
        exact, others = ([state for state in live if state.exact == wanted] for wanted in (True, False))
        for states in (exact, others) if any(network.precision == "bf16" for network in self._networks) else (live,):
            for share in _shares(states, size):
                ended |= self._pass_in_memory(share, watch)
        return ended

    def _pass_in_memory(self, states: Sequence[AttackState], watch: Watcher | None) -> Ended:
        try:
            return self._pass(states, watch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here, where the error no longer holds the tensors of the pass.
        free_cached(self._ensemble.device)
        if len(states) == 1 and self._in_company:
            self._in_company = False  # there is room for one alone
            return self._pass_in_memory(states, watch)
        if len(states) == 1:
            (state,) = states
            if state.views.share_less():
                return self._pass_in_memory(states, watch)
            return {state: Failed(state.job, _too_little_memory(state.job))}
        self._capacity.batch_size = _rows(states) // 2
        ended: Ended = {}
        for share in _shares(states, self.batch_size):
            ended |= self._pass_in_memory(share, watch)
        return ended

    def _pass(self, states: Sequence[AttackState], watch: Watcher | None) -> Ended:
        """Evaluate every photo's candidate once, end the attacks that are done, and have the others take a step.

        All that can run out of memory comes before anything is changed that a second try would change again.
        """
        inputs = [list(chain(*each)) for each in zip(*(state.inputs() for state in states), strict=True)]
        # A row for each view of each photo; those of one photo stand together.
        owners = [state for state in states for _ in range(state.views.count)]
        ends = list(accumulate(state.views.count for state in states))
        rows = [slice(end - state.views.count, end) for state, end in zip(states, ends, strict=True)]
        networks = self._exact_networks if states[0].exact else self._networks
        criteria = zip(*(state.criteria for state in owners), strict=True)
        transforms = [partial(_diversify, owners, number) for number in range(len(self._networks))]
        softness = [state.attack.softness for state in owners]
        run = partial(forward, in_company=self._in_company)
        passes = list(map(run, inputs, networks, criteria, repeat(softness), transforms))
        views = [least(each) for each in zip(*(each.scores for each in passes), strict=True)]
        scores, turns = [], []
        for state, own in zip(states, rows, strict=True):
            turn, score = self._turn(state, least(views[own]))
            turns.append(turn)
            scores.append(score)
        if "step" in turns:
            losses = [state.attack.loss for state in owners]
            temperatures = [state.attack.temperature for state in owners]
            weights = None
            if len(owners) > len(states):
                weights = [
                    weight
                    for state, own in zip(states, rows, strict=True)
                    for weight in state.attack.weigh([view.log_confidence for view in views[own]])
                ]
            gradients = [each.gradient(losses, temperatures, weights) for each in passes]
            for state, own, turn in zip(states, rows, turns, strict=True):
                if turn == "step":
                    state.gather([gradient[own] for gradient in gradients])
        ended: Ended = {}
        precision = _precision_of(networks)
        for state, own, score, turn in zip(states, rows, scores, turns, strict=True):
            state.count_pass(precision)
            if watch is not None:
                with offered(state, passes, own.start) as candidate:
                    watch(StepReport(state.job, state.steps, state.attack.eps, score.confidence, candidate))
            if turn == "step":
                loss = partial(_mean_loss, passes, own, state.attack.loss)
                evaluation = Evaluation(self._fooled(state, score), score.log_confidence, loss)
                state.step(views[own], evaluation)
            elif turn == "restart":
                state.restart()
            elif isinstance(turn, Failed):
                ended[state] = turn
            elif state.refining:
                ended[state] = state.result(turn)
            elif (attempt := state.end_trial(turn)) is not None and not state.refine(attempt):
                ended[state] = state.result(attempt)
        return ended

    def _choose(self, state: AttackState, share: int) -> None:
        """Choose each network's precision by what it takes for so many pictures a pass."""
        self._chosen_for = share
        inputs = (levels[0].expand(share, -1, -1, -1) for levels in state.inputs())
        try:
            choices = [chosen(network, levels) for network, levels in zip(self._exact_networks, inputs, strict=True)]
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

    def _turn(self, state: AttackState, score: Score) -> tuple[Turn, Score]:
        """Return how the attack goes on after the candidate that was just evaluated, and its score.

        Refinement takes the score from the untouched classifiers, where they judged the candidate.
        """
        if not math.isfinite(score.log_confidence):
            name = self._ensemble.name
            error = ClassifierError(f"{name} gives logits that are not finite (NaN) during the attack")
            return Failed(state.job, error), score
        if state.diversified:
            return "step", score
        try:
            return self._refining_turn(state, score) if state.refining else (self._attacking_turn(state, score), score)
        except ClassifierError as error:
            return Failed(state.job, error), score

    def _attacking_turn(self, state: AttackState, score: Score) -> Turn:
        state.keep_if_best(fooled=score.fooled, log_confidence=score.log_confidence)
        if self._seems_reached(state, score):
            levels = state.candidate_levels()
            verdicts = state.judge(levels)
            # The untouched classifier has the last word.
            if state.reached(verdicts):
                return state.attempt(levels, verdicts, steps=state.steps)
            state.reject(verdicts)
        if state.out_of_starts:
            levels = state.best_levels()
            return state.attempt(levels, state.judge(levels, whole=True), steps=state.best_steps)
        return "restart" if state.attack.out_of_steps else "step"

    def _refining_turn(self, state: AttackState, score: Score) -> tuple[Turn, Score]:
        if self._seems_reached(state, score) and state.worth_judging:
            levels = state.candidate_levels()
            verdicts = state.judge(levels)
            if state.reached(verdicts):
                state.keep_refined(state.attempt(levels, verdicts, steps=state.steps))
            score = Score(state.least_log_confidence(verdicts), score.fooled)
        return (state.refined if state.attack.out_of_steps else "step"), score

    def _seems_reached(self, state: AttackState, score: Score) -> bool:
        """Tell whether the gradient networks predict what is wanted, with the confidence asked for.

        Of views that do not share this pass it counts what was last known of them.
        """
        wanted = state.job.settings.min_confidence
        present = self._fooled(state, score) and score.confidence >= wanted
        return present and state.views.absent >= log_odds(math.log(max(wanted, 0.5)))

    def _fooled(self, state: AttackState, score: Score) -> bool:
        """Tell whether all gradient networks predict what is wanted, in all views."""
        return score.fooled == len(self._networks) * state.views.count


def _shares(states: Sequence[AttackState], size: int) -> Iterator[Sequence[AttackState]]:
    """Yield the photos whose views share a pass: at most ``size`` views, or one photo."""
    share: list[AttackState] = []
    for state in states:
        if share and _rows(share) + state.views.most > size:
            yield share
            share = []
        share.append(state)
    if share:
        yield share


def _rows(states: Iterable[AttackState]) -> int:
    """Return how many pictures photos give to a pass."""
    return sum(state.views.most for state in states)


def _precision_of(networks: Iterable[GradientNetwork]) -> str:
    return " and ".join(dict.fromkeys(network.precision for network in networks))


def _diversify(owners: Sequence[AttackState], number: int, inputs: Tensor) -> Tensor:
    """Alter, by chance, what the network of this number gets, [n, 3, crop, crop], of each photo that is to transfer."""
    if not any(state.diversified for state in owners):
        return inputs
    pairs = zip(owners, inputs, strict=True)
    return torch.stack([state.diversify(levels, number) for state, levels in pairs])


def _mean_loss(passes: Sequence[ForwardPass], rows: slice, name: str) -> float:
    return fmean(each.loss(position, name) for each in passes for position in range(rows.start, rows.stop))


def _too_little_memory(job: Job) -> ClassifierError:
    width, height = job.photo.size
    changes = "fewer or smaller changes of --survive, " if job.settings.changes else ""
    return ClassifierError(
        f"{job.photo.source} ({width}x{height}): out of memory; try {changes}a smaller photo or --device cpu"
    )
