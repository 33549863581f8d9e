"""The trace: what it shows is what the engine reported, and it changes nothing of the attack."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from advimg.classifiers.classifier import Classifier
from advimg.engine.attack_state import AttackState
from advimg.engine.engine import Engine
from advimg.engine.job import Job, Result
from advimg.engine.step_report import StepReport
from advimg.images.perturbation import amplified
from advimg.images.photo import Photo
from advimg.outcome import outcome_of
from advimg.record import Record
from advimg.report import trace
from advimg.report.trace import Animation, draw_frames, draw_trace
from advimg.report.trace_data import Point, TraceData
from advimg.settings import Settings, TargetRule
from advimg.tracing import Tracer
from tests.conftest import Cli, EveryModel, linear_classifier, random_photo

if TYPE_CHECKING:
    from advimg.engine.step_report import Candidate

LITE0 = ("-m", "efficientnet_lite0")
NEVER = 0.999999
QUICK = Settings(eps=60, step_size=5, confidence=0.7, refine=0)


@dataclass(frozen=True)
class Traced:
    result: Result
    record: Record
    unfolding: TraceData
    reports: list[StepReport]


def traced(
    photo: Photo,
    target: int | TargetRule = 1,
    *classifiers: Classifier,
    settings: Settings | None = None,
) -> Traced:
    networks = classifiers or (linear_classifier(classes=6, scale=0.1),)
    tracer = Tracer(photo, networks)
    reports: list[StepReport] = []
    job = Job(photo=photo, target=target, settings=settings or QUICK)
    result = Engine(*networks, precision="fp32").attack(job, watch=tracer.beside(reports.append))
    tracer.end(result)
    return Traced(result, outcome_of(result).record, tracer.unfolding, reports)


def opened(data: bytes) -> tuple[int, list[int]]:
    """Return an animation's number of frames and how long each lasts."""
    with Image.open(io.BytesIO(data)) as image:
        durations = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            durations.append(image.info["duration"])
        return len(durations), durations


# What the engine reports.


def test_a_watcher_can_have_each_candidate_and_what_is_seen_in_it() -> None:
    classifier = linear_classifier(classes=5, scale=0.1)
    photo = random_photo(8, 8)
    seen: list[tuple[StepReport, Candidate]] = []
    job = Job(photo=photo, target=1, settings=QUICK)
    engine = Engine(classifier, precision="fp32")
    result = engine.attack(job, watch=lambda report: seen.append((report, report.candidate())))
    assert len(seen) == result.gradients
    for report, candidate in seen:
        verdict = classifier.judge(candidate.levels)
        assert np.allclose(candidate.probabilities[0], verdict.probabilities.numpy(), atol=1e-3)
        assert candidate.confidences == (report.confidence,)
        assert candidate.losses[0] == pytest.approx(-np.log(report.confidence), abs=1e-5)
    assert np.array_equal(seen[0][1].levels, photo.levels)
    assert np.array_equal(seen[-1][1].levels, result.levels)


def test_a_candidate_is_made_only_if_asked_for_and_is_gone_after_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    levels = AttackState.proposed_levels

    def counted(state: AttackState) -> object:
        nonlocal made
        made += 1
        return levels(state)

    monkeypatch.setattr(AttackState, "proposed_levels", counted)
    reports: list[StepReport] = []
    job = Job(photo=random_photo(8, 8), target=1, settings=Settings(eps=1, steps=4, confidence=NEVER))
    Engine(linear_classifier(scale=0.0001)).attack(job, watch=reports.append)
    assert made == 0
    with pytest.raises(RuntimeError, match="while the step is watched"):
        reports[-1].candidate()


def test_steps_and_eps_are_those_of_the_candidate_even_where_a_start_ends() -> None:
    done = traced(random_photo(8, 8), settings=Settings(eps=1, steps=3, restarts=1, confidence=NEVER))
    assert [report.step for report in done.reports] == [0, 1, 2, 3] * 2
    done = traced(random_photo(8, 8), settings=Settings(eps="auto", max_eps=4, steps=2, confidence=NEVER))
    assert [(report.eps, report.step) for report in done.reports] == [
        (eps, step) for eps in (2, 4) for step in (0, 1, 2)
    ]


# What is kept.


def test_points_are_the_engine_s_reports_and_frames_the_pictures() -> None:
    photo = random_photo(60, 40)
    done = traced(photo)
    assert 2 < len(done.reports) < 24
    assert [point.confidences[0] for point in done.unfolding.points] == [report.confidence for report in done.reports]
    assert [point.losses[0] for point in done.unfolding.points] == pytest.approx(
        [-np.log(report.confidence) for report in done.reports], abs=1e-5
    )
    assert [frame.step for frame in done.unfolding.frames] == [report.step for report in done.reports]
    for frame, report in zip(done.unfolding.frames[:-1], done.reports, strict=False):
        assert frame.probabilities[0][1] == pytest.approx(report.confidence, abs=1e-5)
    last = done.unfolding.frames[-1]
    assert last.probabilities[0][1] == pytest.approx(done.record.confidence, abs=1e-5)
    assert (done.unfolding.perturbation(done.unfolding.frames[0]) == 128).all()
    assert done.unfolding.factor == max(10, 127 // done.record.linf)
    colours = {tuple(colour) for colour in done.unfolding.perturbation(last).reshape(-1, 3)}
    whole = amplified(photo.levels, done.result.levels, done.unfolding.factor)
    assert colours <= {tuple(each) for each in whole.reshape(-1, 3)}


@pytest.mark.parametrize("steps", [1, 24, 59, 60, 100, 1000])
def test_early_steps_all_have_frames_and_there_are_never_too_many(steps: int) -> None:
    levels = random_photo(4, 4).levels
    unfolding = TraceData(levels, [["one", "two"]])
    seen = [np.array([0.5, 0.5])]
    for step in range(steps + 1):
        unfolding.add(Point(step, 1, (0.5,), (0.7,)), levels, seen)
    unfolding.end(levels, seen, step=steps, eps=1)
    numbers = [frame.number for frame in unfolding.frames]
    assert numbers == sorted(set(numbers))
    assert numbers[:24] == list(range(min(24, steps + 1)))
    assert numbers[-1] == steps
    assert min(steps + 1, 35) <= len(numbers) <= 60
    assert max(np.diff(numbers)) <= max(1, steps / 15)


def test_frames_of_a_large_photo_are_small() -> None:
    done = traced(random_photo(1200, 900), settings=Settings(eps=1, steps=2, confidence=NEVER))
    assert all(max(frame.picture.shape) <= 448 for frame in done.unfolding.frames)
    assert all(frame.picture.shape == done.unfolding.perturbation(frame).shape for frame in done.unfolding.frames)


# What is drawn.


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_every_frame_is_in_the_file_and_the_last_lasts_longest(kind: Animation) -> None:
    done = traced(random_photo(60, 40))
    data = draw_trace(done.record, done.unfolding, kind)
    frames, durations = opened(data)
    assert frames == len(done.reports)
    assert durations[-1] > 2 * max(durations[1:-1])
    assert data == draw_trace(done.record, done.unfolding, kind)


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (1, 1), (400, 30), (30, 400), (90, 20)], ids=str)
def test_every_shape_is_drawn_with_a_white_margin(size: tuple[int, int]) -> None:
    done = traced(random_photo(*size), settings=Settings(eps=9, steps=3, confidence=NEVER))
    pictures = list(draw_frames(done.record, done.unfolding))
    assert len({picture.shape for picture in pictures}) == 1
    for picture in pictures:
        for edge in (picture[:16], picture[-8:], picture[:, :16], picture[:, -8:]):
            assert (edge == 255).all()


def test_nothing_of_odd_names_is_cut_off() -> None:
    names = ["$x$", "a_b^c", "x" * 300, "", "{\\frac", "y z"]
    middle = (0.5, 0.5, 0.5)
    network = linear_classifier(classes=6, scale=0.1).network
    odd = Classifier.wrap(network, labels=names, mean=middle, std=middle, resize=8, crop=8, name="m" * 200)
    done = traced(random_photo(60, 40), 2, odd)
    for picture in draw_frames(done.record, done.unfolding):
        assert (picture[:, -8:] == 255).all()
        assert (picture[:, :16] == 255).all()


def test_not_reached_ends_with_the_best_attempt() -> None:
    weak = linear_classifier(classes=6, scale=0.001)
    done = traced(random_photo(8, 8), 2, weak, settings=Settings(eps=1, steps=5, confidence=NEVER))
    assert not done.record.fooled
    last = done.unfolding.frames[-1]
    assert (last.step, last.number) == (done.result.steps, done.result.steps)
    shown = list(draw_frames(done.record, done.unfolding))
    assert not np.array_equal(shown[-1], shown[-2])
    assert opened(draw_trace(done.record, done.unfolding, "webp"))[0] == len(done.unfolding.frames)


def test_untargeted_shows_how_sure_the_network_is_of_another_class() -> None:
    done = traced(random_photo(60, 40), "untargeted")
    present = done.record.before[0].index
    for frame, point in zip(done.unfolding.frames[:-1], done.unfolding.points, strict=False):
        assert point.confidences[0] == pytest.approx(1 - frame.probabilities[0][present], abs=1e-3)
    assert opened(draw_trace(done.record, done.unfolding, "webp"))[0] == len(done.unfolding.frames)


def test_of_several_networks_the_one_that_is_fooled_least_is_shown() -> None:
    networks = [linear_classifier(classes=6, scale=0.1, seed=seed) for seed in range(3)]
    photo = random_photo(40, 40)
    done = traced(photo, 1, *networks, settings=Settings(eps=60, step_size=5, steps=8))
    for point, report in zip(done.unfolding.points, done.reports, strict=True):
        assert min(point.confidences) == report.confidence
    drawing = trace._Drawing(done.record, done.unfolding)
    attacked = done.record.attacked
    assert drawing.seen == min(attacked, key=lambda seen: (seen.fooled, seen.confidence))
    assert opened(draw_trace(done.record, done.unfolding, "webp"))[0] == len(done.unfolding.frames)


def test_bars_are_of_the_present_class_the_target_and_the_most_probable_others() -> None:
    done = traced(random_photo(40, 40), 3, linear_classifier(classes=20, scale=0.1))
    rows = trace._Drawing(done.record, done.unfolding).rows
    first = {done.record.before[0].index, 3}
    assert first < set(rows)
    assert len(set(rows)) == 5
    peaks = np.max([frame.probabilities[0] for frame in done.unfolding.frames], axis=0)
    assert min(peaks[index] for index in rows if index not in first) >= max(np.delete(peaks, rows))


def test_bars_are_sorted_as_the_last_frame_sees_the_classes() -> None:
    done = traced(random_photo(40, 40), 3, linear_classifier(classes=20, scale=0.1))
    last = done.unfolding.frames[-1].probabilities[0].round(3)
    shown = last[trace._Drawing(done.record, done.unfolding).rows]
    assert list(shown) == sorted(shown, reverse=True)


@pytest.mark.parametrize("size", [(40, 120), (60, 90), (60, 80), (60, 60), (90, 60), (300, 80), (500, 100)], ids=str)
def test_pictures_fill_their_place_whatever_the_shape(size: tuple[int, int]) -> None:
    done = traced(random_photo(*size), settings=Settings(eps=9, steps=1, confidence=NEVER))
    width, height = done.unfolding.size
    assert abs(width / height - size[0] / size[1]) < 0.02 * size[0] / size[1]
    *_, last = draw_frames(done.record, done.unfolding)
    columns = 1 if done.unfolding.arrangement == "stacked" else 2
    assert last.shape[1] <= 1100
    if done.unfolding.arrangement == "beside":
        assert height > 0.6 * last.shape[0]
    else:
        assert columns * width > 0.8 * last.shape[1]


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_a_file_that_would_be_too_large_has_fewer_frames(kind: Animation, monkeypatch: pytest.MonkeyPatch) -> None:
    done = traced(random_photo(60, 40), settings=Settings(eps=1, steps=18, confidence=NEVER))
    data = draw_trace(done.record, done.unfolding, kind)
    monkeypatch.setattr(trace, "_LARGEST", len(data) - 1)
    smaller = draw_trace(done.record, done.unfolding, kind)
    assert len(smaller) < len(data)
    assert opened(smaller)[0] == 8 + (len(done.unfolding.frames) - 8 + 1) // 2


# The command.


@pytest.fixture
def _loaded(every_model: EveryModel, lite0: Classifier) -> None:
    every_model(lite0)


def run(cli: Cli, photo: Path, *more: object, code: int = 0) -> dict[str, object]:
    ran = cli("attack", photo, "-t", "pelican", *LITE0, "--precision", "fp32", "--json", "-q", *more)
    assert ran.code == code, ran.err
    record: dict[str, object] = json.loads(ran.out)
    return record


@pytest.mark.usefixtures("_loaded")
def test_the_trace_is_written_named_and_changes_nothing_else(cli: Cli, photo: Path, tmp_path: Path) -> None:
    files: list[dict[str, bytes]] = []
    options: tuple[tuple[str, ...], ...] = ((), ("--trace", "steps.webp"), ("--trace", "steps.webp", "-f"))
    for more in options:
        record = run(cli, photo, "--no-figure", *more)
        files.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
        (tmp_path / "cat_pelican.png").unlink()
        (tmp_path / "cat_pelican_perturbation.png").unlink()
        outputs = record["outputs"]
        assert isinstance(outputs, dict)
        assert outputs.get("trace") == ("steps.webp" if more else None)
    plain, once, again = files
    assert once == again
    assert once == plain | {"steps.webp": once["steps.webp"]}
    gradients = record["gradients"]
    assert isinstance(gradients, int)
    assert opened(once["steps.webp"])[0] == gradients
    assert len(once["steps.webp"]) < 3_000_000


@pytest.mark.usefixtures("_loaded")
def test_not_reached_writes_a_trace_too(cli: Cli, photo: Path, tmp_path: Path) -> None:
    run(cli, photo, "-e", "1", "--steps", "3", "--trace", "steps.GIF", code=3)
    with Image.open(tmp_path / "steps.GIF") as image:
        assert image.format == "GIF"
        assert getattr(image, "n_frames", 1) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trace", "steps.mp4"), "must be a .webp or a .gif"),
        (("--trace", "steps"), "must be a .webp or a .gif"),
        (("--trace", "-"), "not written to stdout"),
        (("--trace", "steps.webp", "-o", "-"), "no file besides"),
    ],
)
def test_names_that_are_refused_before_any_work(
    cli: Cli, photo: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    ran = cli("attack", photo, "-t", "pelican", *LITE0, *arguments)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert message in ran.err
    assert list(tmp_path.iterdir()) == [photo]


def test_a_trace_that_is_there_is_kept_unless_forced_and_the_photo_always(
    cli: Cli, photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "steps.webp").write_bytes(b"mine")
    ran = cli("attack", photo, "-t", "pelican", *LITE0, "--trace", "steps.webp")
    assert ran.code == 1
    assert "--force" in ran.err
    assert (tmp_path / "steps.webp").read_bytes() == b"mine"
    with Image.open(photo) as image:
        image.save(tmp_path / "cat.webp")
    ran = cli("attack", "cat.webp", "-t", "pelican", *LITE0, "--trace", "cat.webp", "-f")
    assert ran.code == 1
    assert "is the photo itself" in ran.err
    ran = cli("attack", photo, "-t", "pelican", *LITE0, "--trace", "nowhere/steps.webp")
    assert ran.code == 1
    assert "does not exist; create it" in ran.err


@pytest.mark.usefixtures("_loaded")
def test_a_trace_that_fails_takes_the_other_files_with_it(
    cli: Cli, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> bytes:
        raise OSError(28, "No space left on device", "steps.webp")

    monkeypatch.setattr("advimg.report.trace.draw_trace", full)
    ran = cli("attack", photo, "-t", "pelican", *LITE0, "--trace", "steps.webp", "-q")
    assert (ran.code, ran.err) == (1, "advimg: steps.webp: No space left on device\n")
    assert list(tmp_path.iterdir()) == [photo]
