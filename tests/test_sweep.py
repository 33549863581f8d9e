"""Success against eps: the sums, the plot and the command."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from advimg.classifiers.classifier import Classifier
from advimg.cli.sweep import _lines_of_changes
from advimg.formatting import percent
from advimg.report.curves import draw_curves
from advimg.report.robustness import AfterChange, Point, points_of, robustness_of, to_csv
from tests.batches import attack_all, quick_classifier, records_of, save_photos
from tests.conftest import Cli, EveryModel, linear_classifier
from tests.referee import judge

COMMAND = ("sweep", "photos", "-t", "3", "-e", "4,1,2", "-O", "out")


@pytest.fixture
def quick(every_model: EveryModel) -> Classifier:
    """Let every model be a quick linear one."""
    classifier = quick_classifier()
    every_model(classifier)
    return classifier


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return save_photos(tmp_path / "photos", 4)


def record(model: str, eps: int, *, fooled: bool, confidence: float, error: str | None = None) -> dict[str, Any]:
    return {"model": model, "eps": eps, "fooled": fooled, "confidence": confidence, "gradients": 4, "error": error}


# The sums.


def test_points_are_sums_by_model_and_eps() -> None:
    records = [
        record("b", 2, fooled=True, confidence=0.9),
        record("a", 2, fooled=True, confidence=1.0),
        record("b", 1, fooled=False, confidence=0.1),
        record("b", 2, fooled=False, confidence=0.3),
        record("b", 2, fooled=False, confidence=0.0, error="broken"),
    ]
    points = points_of(records)
    assert [(point.model, point.eps, point.files, point.verified, point.failed) for point in points] == [
        ("b", 1, 1, 0, 0),
        ("b", 2, 2, 1, 1),
        ("a", 2, 1, 1, 0),
    ]
    assert [point.share for point in points] == [0, 0.5, 1]
    assert points[1].confidence == pytest.approx(0.6)
    assert points[1].gradients == 4


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (85, 100, 0.7672, 0.9069)],
)
def test_the_interval_of_a_share_is_wilson_s(hits: int, trials: int, low: float, high: float) -> None:
    (point,) = points_of(record("a", 1, fooled=number < hits, confidence=0.5) for number in range(trials))
    assert point.share_low == pytest.approx(low, abs=1e-4)
    assert point.share_high == pytest.approx(high, abs=1e-4)


def test_the_interval_of_the_mean_confidence() -> None:
    """Of 0.2, 0.4, 0.6, 0.8: mean 0.5, standard deviation 0.2582."""
    (point,) = points_of(record("a", 1, fooled=False, confidence=value) for value in (0.2, 0.4, 0.6, 0.8))
    assert point.confidence_low == pytest.approx(0.5 - 1.96 * 0.2582 / 2, abs=1e-4)
    assert point.confidence_high == pytest.approx(0.5 + 1.96 * 0.2582 / 2, abs=1e-4)


def test_attacks_that_all_failed_are_a_point_of_nothing() -> None:
    (point,) = points_of([record("a", 1, fooled=False, confidence=0, error="broken")])
    assert (point.files, point.failed, point.share, point.share_low, point.share_high) == (0, 1, 0, 0, 1)


def test_a_table_reads_back(photos: list[Path]) -> None:
    points = points_of([record("a, b", 1, fooled=True, confidence=0.5)])
    (row,) = csv.DictReader(io.StringIO(to_csv(points), newline=""))
    assert (row["model"], row["eps"], row["share"]) == ("a, b", "1", "1.0")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return whole records, of files that show their target."""
    folder = tmp_path_factory.mktemp("attacked")
    attack_all(save_photos(folder / "photos", 3), folder / "out", quick_classifier())
    records = records_of(folder / "out")
    assert all(record["fooled"] for record in records)
    return records


def surviving(record: dict[str, Any], **outcomes: float) -> dict[str, Any]:
    """Return a record of a file that was judged after changes: how sure the network is, below 0.5 where it falls."""
    survives = [
        {
            "change": change,
            "fooled": sure >= 0.5,
            "confidence": sure,
            "seen": {"index": 1 if sure >= 0.5 else 0, "name": "a class", "confidence": max(sure, 1 - sure)},
        }
        for change, sure in outcomes.items()
    ]
    return record | {"survives": survives, "fooled": all(each["fooled"] for each in survives)}


def test_shares_are_told_by_change(attacked: list[dict[str, Any]]) -> None:
    one, two, three = attacked
    lost = three | {"after": list(reversed(three["after"]))}
    records = [
        surviving(one, jpeg=0.9, blur=0.7),
        surviving(two, jpeg=0.6, blur=0.2),
        surviving(lost, jpeg=0.3, blur=0),
    ]
    (point,) = points_of([*records, one | {"error": "broken", "fooled": False}])
    assert (point.files, point.verified, point.failed) == (3, 1, 1)
    assert [(each.change, each.files, each.verified) for each in point.survives] == [
        ("none", 3, 2),
        ("jpeg", 3, 2),
        ("blur", 3, 1),
    ]
    assert [each.share for each in point.survives] == pytest.approx([2 / 3, 2 / 3, 1 / 3], abs=1e-6)
    assert [each.confidence for each in point.survives[1:]] == pytest.approx([0.6, 0.3])
    (alone,) = points_of(record("a", 1, fooled=number == 0, confidence=0.5) for number in range(3))
    assert (point.survives[2].share_low, point.survives[2].share_high) == (alone.share_low, alone.share_high)


def test_what_survives_nothing_is_told_as_ever() -> None:
    (point,) = points_of([record("a", 1, fooled=True, confidence=0.5)])
    keys = (
        "model eps files verified share share_low share_high confidence confidence_low confidence_high gradients failed"
    )
    assert list(point.to_dict()) == keys.split()
    assert to_csv([point]).splitlines()[0] == keys.replace(" ", ",")


def test_a_table_has_a_row_for_each_change(attacked: list[dict[str, Any]]) -> None:
    one, two, _ = attacked
    points = points_of([surviving(one, jpeg=0.9), surviving(two, jpeg=0.2), surviving(one | {"eps": 20}, jpeg=0.8)])
    rows = list(csv.DictReader(io.StringIO(to_csv(points), newline="")))
    assert [(row["eps"], row["change"], row["verified"], row["share"]) for row in rows] == [
        ("10", "none", "2", "1.0"),
        ("10", "jpeg", "1", "0.5"),
        ("10", "all", "1", "0.5"),
        ("20", "none", "1", "1.0"),
        ("20", "jpeg", "1", "1.0"),
        ("20", "all", "1", "1.0"),
    ]
    assert all(row["model"] == "linear" and row["failed"] == "0" and row["gradients"] for row in rows)


# The plot.


def points(model: str, *pairs: tuple[int, float]) -> list[Point]:
    return [
        Point(
            model=model,
            eps=eps,
            files=10,
            verified=round(10 * share),
            share=share,
            share_low=max(0.0, share - 0.1),
            share_high=min(1.0, share + 0.1),
            confidence=share / 2,
            confidence_low=share / 4,
            confidence_high=share,
            gradients=5,
            failed=0,
        )
        for eps, share in pairs
    ]


def colours_in(png: bytes) -> set[tuple[int, ...]]:
    with Image.open(io.BytesIO(png)) as image:
        return {tuple(colour) for colour in np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0).tolist()}


def test_each_model_has_a_curve_of_its_own_colour() -> None:
    one = points("a", (1, 0.2), (2, 0.8), (4, 1.0))
    other = points("b", (1, 0.1), (2, 0.5), (4, 0.9))
    blue, orange = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
    assert {blue} == colours_in(draw_curves(one, caption="10 photos")) & {blue, orange}
    both = draw_curves([*one, *other], caption="10 photos")
    assert {blue, orange} <= colours_in(both)
    assert both == draw_curves([*one, *other], caption="10 photos")


@pytest.mark.parametrize("name", ["$\\frac{1}{0}$", "a_b^c", "x" * 300, "fünf \x1b[31m"])
def test_odd_names_and_single_points_are_drawn(name: str) -> None:
    assert draw_curves(points(name, (3, 0.4)), caption=name).startswith(b"\x89PNG")


def after(change: str, share: float) -> AfterChange:
    """Return what is left after a change, of 10 files."""
    shares = {"share": share, "share_low": max(0.0, share - 0.1), "share_high": min(1.0, share + 0.1)}
    sure = dict.fromkeys(("confidence", "confidence_low", "confidence_high"), share)
    return AfterChange(change=change, files=10, verified=round(10 * share), **shares, **sure)


def surviving_points(model: str, changes: dict[str, float], *pairs: tuple[int, float]) -> list[Point]:
    """Return points with the same shares after changes at each eps."""
    survives = tuple(after(change, share) for change, share in changes.items())
    return [replace(point, survives=survives) for point in points(model, *pairs)]


def height_of(png: bytes) -> int:
    with Image.open(io.BytesIO(png)) as image:
        return image.height


def pixels_of(png: bytes, colour: tuple[int, int, int]) -> int:
    """Count the pixels of a colour."""
    with Image.open(io.BytesIO(png)) as image:
        return int((np.asarray(image.convert("RGB")) == colour).all(axis=2).sum())


@pytest.mark.parametrize("count", [1, 3, 4, 15])
def test_each_change_has_a_panel(count: int) -> None:
    """Of four changes no panel is a fifth: the file itself has one, too."""
    pairs = ((1, 0.2), (2, 0.8))
    changes = {"none": 1.0} | {f"jpeg:{quality}": 0.5 for quality in range(1, count + 1)}
    plain, drawn = (
        draw_curves(each, caption="10 photos") for each in (points("a", *pairs), surviving_points("a", changes, *pairs))
    )
    rows = -(-(count + 1) // 4)
    assert height_of(drawn) - height_of(plain) == pytest.approx((38 + 132 * rows) * 180 / 72, abs=2)
    blue = (0x00, 0x72, 0xB2)
    # A curve of a panel takes about as many pixels as that of any other.
    one = draw_curves(surviving_points("a", {"none": 1.0}, *pairs), caption="10 photos")
    assert pixels_of(drawn, blue) - pixels_of(plain, blue) > 0.1 * count * (
        pixels_of(one, blue) - pixels_of(plain, blue)
    )


def test_curves_that_coincide_are_all_seen() -> None:
    pairs = ((1, 1.0), (2, 1.0), (8, 1.0))
    both = [*surviving_points("a", {"none": 1.0}, *pairs), *surviving_points("b", {"none": 1.0}, *pairs)]
    with Image.open(io.BytesIO(draw_curves(both, caption="10 photos"))) as image:
        panel = np.asarray(image.convert("RGB"))[round(330 * 180 / 72) :]
    seen = [(panel == colour).all(axis=2).sum() for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00))]
    assert min(seen) > 0.3 * max(seen)


@pytest.mark.filterwarnings("error")
def test_a_model_on_which_all_attacks_failed_has_no_curve_after_changes() -> None:
    pairs = ((1, 0.5), (2, 0.5), (4, 0.5))
    draw_curves([*surviving_points("a", {"none": 0.5, "jpeg:75": 0.5}, *pairs), *points("b", *pairs)], caption="")


def test_labels_of_eps_do_not_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where eps are many, some have no label in a small panel."""
    written: list[list[str]] = []
    monkeypatch.setattr(Axes, "set_xticks", lambda *given: written.append(given[-1]))
    changes = dict.fromkeys(["none", *(f"jpeg:{quality}" for quality in range(3))], 0.5)
    pairs = [(eps, 0.5) for eps in (1, 2, 3, 4, 6, 8, 10, 12, 14, 15, 16)]
    draw_curves(surviving_points("a", changes, *pairs), caption="")
    small = ["1", "2", "3", "4", "6", "8", "", "12", "", "", "16"]
    large = [*"123468", "10", "12", "14", "", "16"]
    assert written == [small] * 4 + [large] * 2


# The command.


def test_a_sweep_writes_sums_and_a_plot(cli: Cli, quick: Classifier, photos: list[Path]) -> None:
    ran = cli(*COMMAND, "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert [point["eps"] for point in told] == [1, 2, 4]
    sums = json.loads(Path("out/sweep.json").read_bytes())
    assert sums["points"] == told
    assert sums["caption"] == "4 photos"
    rows = list(csv.DictReader(io.StringIO(Path("out/sweep.csv").read_text(encoding="utf-8"), newline="")))
    assert [float(row["share"]) for row in rows] == [point["share"] for point in told]
    with Image.open("out/sweep.png") as image:
        image.load()
    (folder,) = (path for path in Path("out").iterdir() if path.is_dir())
    records = records_of(folder)
    assert len(records) == 12
    for point in told:
        files = [each for each in records if each["eps"] == point["eps"]]
        verified = 0
        for each in files:
            with Image.open(each["outputs"]["adversarial"]) as image:
                verified += quick.judge(np.asarray(image.convert("RGB"))).top1 == 3
        assert (point["files"], point["verified"]) == (4, verified)
        assert point["confidence"] == pytest.approx(np.mean([each["confidence"] for each in files]), abs=1e-6)


def test_a_sweep_tells_what_survives(cli: Cli, quick: Classifier, photos: list[Path]) -> None:
    ran = cli(*COMMAND, "--survive", "jpeg:50,resize:0.5+jpeg:75", "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert json.loads(Path("out/sweep.json").read_bytes())["points"] == told
    changes = ["jpeg:50", "resize:0.5+jpeg:75"]
    (folder,) = (path for path in Path("out").iterdir() if path.is_dir())
    for point in told:
        files = [each for each in records_of(folder) if each["eps"] == point["eps"]]
        assert [each["change"] for each in point["survives"]] == ["none", *changes]
        assert point["survives"][0]["verified"] == sum(each["after"][0]["index"] == 3 for each in files)
        for number, survives in enumerate(point["survives"][1:]):
            assert survives["verified"] == sum(each["survives"][number]["fooled"] for each in files)
        assert point["verified"] == sum(each["fooled"] for each in files)
    rows = list(csv.DictReader(io.StringIO(Path("out/sweep.csv").read_text(encoding="utf-8"), newline="")))
    assert [row["change"] for row in rows] == ["none", *changes, "all"] * 3
    lines = ran.err.splitlines()
    table = lines[lines.index("files that hold, by linear") + 1 :]
    assert table[0].split() == ["ε", "=", "1", "ε", "=", "2", "ε", "=", "4"]
    assert [line[:18].strip() for line in table[1:5]] == ["the file itself", *changes, "all of these"]
    for line, number in zip(table[1:4], range(3), strict=True):
        shares = [percent(point["survives"][number]["share"]) for point in told]
        assert line[18:].split() == " ".join(shares).split()
    assert table[4][18:].split() == " ".join(percent(point["share"]) for point in told).split()


def test_where_no_file_was_written_nothing_is_told_of_changes() -> None:
    good, lost = surviving_points("m", {"none": 0.5, "jpeg:50": 0.25}, (1, 0.25), (2, 0.0))
    *_, itself, change, everything = _lines_of_changes([good, replace(lost, files=0, verified=0, survives=())])
    assert itself.split()[-3:] == ["50.0", "%", "-"]
    assert change.split()[-3:] == ["25.0", "%", "-"]
    assert everything.split()[-3:] == ["25.0", "%", "-"]


def test_a_sweep_goes_on_where_it_was(cli: Cli, quick: Classifier, photos: list[Path]) -> None:
    assert cli("sweep", photos[0], "-t", "3", "-e", "1,2,4", "-O", "out").code == 0
    (folder,) = (path for path in Path("out").iterdir() if path.is_dir())
    before = (folder / "results.jsonl").read_bytes()
    ran = cli(*COMMAND)
    assert ran.code == 0
    assert "3 of 12 were done by an earlier run" in ran.err
    assert (folder / "results.jsonl").read_bytes().startswith(before)
    assert json.loads(Path("out/sweep.json").read_bytes())["caption"] == "4 photos"
    again = cli(*COMMAND)
    assert "12 of 12 were done by an earlier run" in again.err


def test_several_models_have_folders_of_their_own(cli: Cli, photo: Path) -> None:
    models = ("efficientnet_lite0", "efficientnet_lite1")
    ran = cli("sweep", photo, "-t", "pelican", "-e", "2", "-m", models[0], "-m", models[1], "-O", "out", "--json")
    assert ran.code == 0, ran.err
    for variant, (model, point) in enumerate(zip(models, json.loads(ran.out), strict=True)):
        assert point["model"] == model
        top1, _ = judge(Path("out") / model / "cat_pelican.png", variant)
        assert point["verified"] == (top1 == 144)
    assert "1 of 1" in ran.err


# A limit for checks that run by themselves.


def test_a_photo_is_robust_if_every_attack_on_it_failed() -> None:
    def of(source: str, *, fooled: bool, **given: Any) -> dict[str, Any]:
        return record("a", 2, fooled=fooled, confidence=0.5) | {"source": source} | given

    records = [
        of("one", fooled=False),
        of("one", fooled=True),
        of("two", fooled=False),
        of("two", fooled=False),
        of("three", fooled=False, error="broken"),
        of("three", fooled=False),
        of("four", fooled=False, error="broken"),
        of("two", fooled=True, eps=4),
        of("one", fooled=False, model="b"),
        of("one", fooled=False, model="c", error="broken"),
    ]
    counted = robustness_of(records, 2)
    assert [(each.model, each.photos, each.robust) for each in counted] == [("a", 3, 2), ("b", 1, 1)]
    assert [each.share for each in counted] == [2 / 3, 1]


def test_a_file_that_falls_after_one_change_still_shows_its_target(attacked: list[dict[str, Any]]) -> None:
    def robust(*records: dict[str, Any]) -> list[tuple[int, int]]:
        return [(each.photos, each.robust) for each in robustness_of(records, records[0]["eps"])]

    shown = attacked[0]
    hidden = shown | {"after": list(reversed(shown["after"]))}
    assert not surviving(shown, jpeg=0.9, blur=0.2)["fooled"]
    assert robust(surviving(shown, jpeg=0.9, blur=0.2)) == [(1, 0)]
    assert robust(surviving(shown, jpeg=0.1, blur=0.2)) == [(1, 0)]
    assert robust(surviving(hidden, jpeg=0.1, blur=0.7)) == [(1, 0)]
    assert robust(surviving(hidden, jpeg=0.1, blur=0.2)) == [(1, 1)]


def robust_shares(folder: Path) -> dict[float, float]:
    """Return the share of photos that withstand each eps, of a sweep with one target."""
    points = json.loads((folder / "sweep.json").read_bytes())["points"]
    return {point["eps"]: 1 - point["verified"] / point["files"] for point in points}


def test_the_exit_code_tells_whether_enough_photos_withstand(cli: Cli, quick: Classifier, photos: list[Path]) -> None:
    gated = (*COMMAND, "--steps", "3")
    assert cli(*gated).code == 0
    shares = robust_shares(Path("out"))
    assert shares[1] > shares[4]
    for eps, share in shares.items():
        counted = f"linear: {percent(share)} of photos ({round(4 * share)} of 4) withstand ε = {eps}"
        ran = cli(*gated, "--at-eps", eps, "--fail-under", share)
        assert (ran.code, ran.err.splitlines()[-1]) == (0, f"{counted}; --fail-under asks for {percent(share)}")
        if share < 1:
            ran = cli(*gated, "--at-eps", f"{eps}/255", "--fail-under", share + 0.01, "-q")
            assert ran.code == 4
            assert ran.err == f"advimg: {counted}, less than --fail-under {percent(share + 0.01)}\n"
    assert cli(*gated, "--fail-under", shares[4] + 0.01).code == 4  # at the largest eps
    assert cli(*gated, "--fail-under", shares[4]).code == 0


def test_every_model_has_to_withstand(cli: Cli, every_model: EveryModel, photos: list[Path]) -> None:
    weak = replace(quick_classifier(), name="weak")
    steady = replace(linear_classifier(classes=6, size=64, scale=1e-6), name="steady")
    with torch.no_grad():
        dict(steady.network.named_parameters())["1.bias"][0] = 9
    every_model(weak, steady=steady)
    models = ("-m", "weak", "-m", "steady")
    command = ("sweep", "photos", "-t", "3", "-e", "8", "--fail-under", "0.5", "-O", "out")
    assert cli(*command, "-m", "steady").code == 0
    ran = cli(*command, *models)
    assert ran.code == 4
    assert [line.split(":")[0] for line in ran.err.splitlines() if "--fail-under" in line] == ["advimg", "steady"]


def test_photos_that_fail_are_the_exit_code_before_those_that_do_not_withstand(
    cli: Cli, quick: Classifier, photos: list[Path]
) -> None:
    photos[0].write_bytes(b"no picture")
    ran = cli("sweep", "photos", "-t", "3", "-e", "8", "--fail-under", "1", "-O", "out")
    assert ran.code == 1
    assert "advimg: linear: 0 % of photos (0 of 3) withstand ε = 8, less than --fail-under 100 %" in ran.err


def test_photos_that_fail_are_counted_apart(cli: Cli, quick: Classifier, photos: list[Path]) -> None:
    (photos[0].parent / "broken.jpg").write_bytes(b"no picture")
    ran = cli(*COMMAND, "--json")
    assert ran.code == 1
    assert [(point["files"], point["failed"]) for point in json.loads(ran.out)] == [(4, 1)] * 3


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (("-t", "3", "-e", "1,x"), 2, "eps 'x' is not a number"),
        (("-t", "3", "-e", "1,0.5"), 2, "looks like a fraction"),
        ((), 2, "which target class?"),
        (("-t", "99"), 2, "out of range"),
        (("-t", "3", "--fail-under", "70"), 2, "--fail-under 70: give a share from 0 to 1"),
        (("-t", "3", "--fail-under", "-0.1"), 2, "give a share from 0 to 1"),
        (("-t", "3", "--fail-under", "nan"), 2, "give a share from 0 to 1"),
        (("-t", "3", "--fail-under", "much"), 2, "--fail-under"),
        (("-t", "3", "--fail-under", "0.7", "--at-eps", "3"), 2, "--at-eps 3 is not one of --eps 1,2,4,8,16"),
        (("-t", "3", "--fail-under", "0.7", "--at-eps", "x"), 2, "eps 'x' is not a number"),
        (("-t", "3", "--at-eps", "2"), 2, "give that, or leave out --at-eps"),
    ],
)
def test_what_is_wrong_is_one_line(
    cli: Cli, quick: Classifier, photos: list[Path], given: tuple[str, ...], code: int, message: str
) -> None:
    ran = cli("sweep", "photos", *given, "-O", "out")
    assert ran.code == code
    (line,) = ran.err.splitlines()
    assert message in line
    assert not Path("out").exists()


def test_files_of_others_are_not_overwritten(cli: Cli, quick: Classifier, photos: list[Path]) -> None:
    Path("out").mkdir()
    Path("out/sweep.csv").write_text("mine")
    ran = cli(*COMMAND)
    assert ran.code == 1
    assert "is not of a sweep" in ran.err
    assert Path("out/sweep.csv").read_text() == "mine"
    assert cli(*COMMAND, "--force").code == 0


def test_two_models_of_one_file_name_have_folders_of_their_own(cli: Cli, photo: Path, tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "mine.toml").write_text('model = "efficientnet_lite0"\n')
    command = ("sweep", photo, "-t", "pelican", "-e", "1", "--steps", "1", "-O", "out")
    ran = cli(*command, "-m", "a/mine.toml", "-m", "b/mine.toml", "--json")
    assert ran.code == 0
    assert [point["model"] for point in json.loads(ran.out)] == ["a/mine.toml", "b/mine.toml"]
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {"a_mine_toml", "b_mine_toml"}
