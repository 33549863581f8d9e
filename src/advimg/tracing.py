"""The steps of an attack, kept for its trace: from the engine's reports to data that can be drawn."""

from collections.abc import Sequence

from advimg.classifiers.classifier import Classifier
from advimg.engine.job import Result
from advimg.engine.step_report import StepReport, Watcher
from advimg.images.perturbation import Amplify
from advimg.images.photo import Photo
from advimg.report.trace_data import Point, TraceData


class Tracer:
    """Watches one attack.

    Args:
        photo: that is attacked.
        classifiers: that are attacked.
        amplify: how many times larger than it is the perturbation is shown, or "auto".
    """

    def __init__(self, photo: Photo, classifiers: Sequence[Classifier], *, amplify: Amplify = "auto") -> None:
        names = [classifier.labels.names for classifier in classifiers]
        self.unfolding = TraceData(photo.levels, names, amplify=amplify)

    def beside(self, other: Watcher | None) -> Watcher:
        """Return a watcher that keeps each step, and passes it on to another."""

        def watch(report: StepReport) -> None:
            self._keep(report)
            if other is not None:
                other(report)

        return watch

    def end(self, result: Result) -> None:
        """Keep the final picture, as the untouched classifiers see it."""
        seen = [judgement.after.probabilities.numpy() for judgement in result.judgements]
        self.unfolding.end(result.levels, seen, step=result.steps, eps=result.eps)

    def _keep(self, report: StepReport) -> None:
        candidate = report.candidate()
        point = Point(report.step, report.eps, candidate.confidences, candidate.losses)
        self.unfolding.add(point, candidate.levels, candidate.probabilities)
