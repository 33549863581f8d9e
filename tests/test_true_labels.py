"""True classes of photos: where they come from, and the accuracies that follow."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

import advimg
from advimg.batches.true_labels import read_true_labels
from advimg.classifiers.classifier import Classifier
from advimg.errors import UsageError
from advimg.formatting import percent
from advimg.images.decode import read_photo
from advimg.labels import Labels
from advimg.record import Target
from advimg.report.accuracy import Accuracy, accuracies_of
from advimg.report.robustness import points_of, to_csv
from tests.batches import assert_one_line, by_source, quick_classifier, records_of, save_photo
from tests.conftest import Cli

LABELS = Labels(["tabby", "Egyptian cat", "crane", "crane"])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photo_at(here: Path, *names: str) -> list[Path]:
    return [here / name for name in names]


# Where labels come from.


def test_labels_are_the_names_of_folders(here: Path) -> None:
    photos = photo_at(here, "tabby/1.jpg", "egyptian_cat/1.jpg", "egyptian_cat/2.jpg", "3/1.jpg")
    assert read_true_labels("folders", photos, LABELS) == dict(zip(photos, (0, 1, 1, 3), strict=True))


def test_labels_are_those_of_a_table(here: Path) -> None:
    photos = photo_at(here, "a.jpg", "sub/b, c.jpg", "other.jpg")
    Path("labels.csv").write_text(
        '\ufefflabel,photo\r\nTabby,a.jpg\r\n3,"./sub/../sub/b, c.jpg"\r\ntabby,gone.jpg\r\ntabby,a.jpg\r\n',
        encoding="utf-8",
        newline="",
    )
    assert read_true_labels("labels.csv", photos, LABELS) == {photos[0]: 0, photos[1]: 3}


def test_another_network_has_to_know_the_class(here: Path) -> None:
    with pytest.raises(UsageError, match="second: unknown class 'tabby'"):
        read_true_labels("folders", photo_at(here, "tabby/1.jpg"), LABELS, {"second": Labels(["cat", "dog"])})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("photo,label\np/a.jpg,tabi\n", "labels.csv, line 2: unknown class 'tabi'; did you mean tabby?"),
        ("photo,label\np/a.jpg,crane\n", "labels.csv, line 2: class 'crane' is ambiguous; give its index"),
        ("photo,label\np/a.jpg,tabby\np/a.jpg,2\n", "labels.csv, line 3: p/a.jpg has another label above"),
        ("photo,label\np/a.jpg\n", "labels.csv, line 2: photo and label are both needed"),
        ("photo,label\np/a,jpg,tabby\n", "labels.csv, line 2: more values than columns"),
        ("path,label\np/a.jpg,tabby\n", "labels.csv: the first line must be photo,label"),
        ("photo,label\n", "labels.csv has no line below its header"),
        ("photo,label\na.jpg,tabby\n", "labels.csv names none of the photos; its paths are relative to the current"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line(here: Path, table: str, message: str) -> None:
    Path("labels.csv").write_text(table)
    with pytest.raises(UsageError) as error:
        read_true_labels("labels.csv", photo_at(here, "p/a.jpg"), LABELS)
    assert str(error.value).startswith(message)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("command", ["batch", "sweep"])
@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        ("folders", 2, "is to be named after a class: unknown class 'photos'"),
        ("no.csv", 1, "no.csv cannot be read"),
        ("photos/p.jpg", 2, "photos/p.jpg is not UTF-8 text"),
    ],
)
def test_wrong_labels_are_told_before_anything_is_attacked(
    cli: Cli, command: str, given: str, code: int, message: str
) -> None:
    save_photo(Path("photos/p.jpg"))
    assert_one_line(cli(command, "photos", "-t", "3", "--true-labels", given, "-O", "out"), code, message)
    assert not Path("out").exists()


# Accuracies.


def seen(source: str, first_before: int, first_after: int, **given: Any) -> dict[str, Any]:
    """Return the part of a record that accuracies come from: the classes seen in the photo and in the file."""
    first = {"before": [{"index": first_before}], "after": [{"index": first_after}]}
    return {"source": source, "model": "a", "ensemble": [], "checked": [], "error": None} | first | given


FAILED = {"before": [], "after": [], "error": "broken"}


def test_a_photo_counts_once_and_by_the_worst_of_its_files() -> None:
    true = {"a": {name: Target(1, "one") for name in ("p", "q", "r", "s", "t")}}
    records = [
        seen("p", 1, 1),
        seen("p", 1, 0),  # made wrong, by one of two attacks
        seen("q", 1, 1),
        seen("q", 1, 1),
        seen("r", 0, 1),  # wrong before
        seen("s", 1, 2, **FAILED),
        seen("t", 1, 1),
        seen("t", 1, 1, **FAILED),
        seen("without a label", 0, 0),
    ]
    (counted,) = accuracies_of(records, true)
    assert counted == Accuracy("a", photos=4, clean=3, robust=2)
    assert (counted.clean_accuracy, counted.robust_accuracy) == (0.75, 0.5)
    assert accuracies_of(reversed(records), true) == [counted]


def test_each_network_counts_by_its_own_classes() -> None:
    true = {"a": {"p": Target(1, "one")}, "b": {"p": Target(7, "one")}, "c": {"p": Target(1, "one")}}
    networks = {
        "ensemble": [{"model": "b", "before": [{"index": 7}], "after": [{"index": 7}]}],
        "checked": [{"model": "c", "before": [{"index": 7}], "after": [{"index": 1}]}],
    }
    assert accuracies_of([seen("p", 1, 7, **networks)], true) == [
        Accuracy("a", photos=1, clean=1, robust=0),
        Accuracy("b", photos=1, clean=1, robust=1),
        Accuracy("c", photos=1, clean=0, robust=0),
    ]


def test_points_have_accuracies_where_classes_are_known() -> None:
    sums = {"fooled": False, "confidence": 0.5, "gradients": 4, "eps": 1}
    records = [seen("p", 1, 1, **sums), seen("q", 1, 0, **sums), seen("p", 1, 0, **sums | FAILED | {"eps": 2})]
    true = {"a": {"p": Target(1, "one"), "q": Target(1, "one")}}
    points = points_of(records, true)
    accuracies = [(point.labelled, point.clean_accuracy, point.robust_accuracy) for point in points]
    assert accuracies == [(2, 1.0, 0.5), (0, 0.0, 0.0)]
    assert list(points[0].to_dict())[-4:] == ["failed", "labelled", "clean_accuracy", "robust_accuracy"]
    rows = list(csv.DictReader(io.StringIO(to_csv(points))))
    assert [row["robust_accuracy"] for row in rows] == ["0.5", "0.0"]


# The commands.


@pytest.fixture
def labelled(here: Path, quick: Classifier) -> list[Path]:
    """Write photos into folders named after what the network predicts in them; but for one, which has another name."""
    written = []
    for seed in range(4):
        path = save_photo(Path(f"p{seed}.png"), seed)
        present = quick.judge(read_photo(path).levels).top1
        named = quick.labels[present if seed else (present + 1) % len(quick.labels)]
        (here / "photos" / named).mkdir(parents=True, exist_ok=True)
        written.append(path.rename(here / "photos" / named / path.name))
    return written


BATCH = ("batch", "photos", "-r", "--untargeted", "--true-labels", "folders", "-O", "out")


def accuracy_of(records: list[dict[str, Any]]) -> tuple[float, float]:
    """Return clean and robust accuracy of records whose photos lie in folders named after their classes."""
    right = [
        tuple(each[when][0]["name"] == Path(each["source"]).parent.name for when in ("before", "after"))
        for each in records
    ]
    return sum(clean for clean, _ in right) / len(right), sum(clean and after for clean, after in right) / len(right)


def test_a_batch_tells_clean_and_robust_accuracy(cli: Cli, labelled: list[Path], here: Path) -> None:
    ran = cli(*BATCH, "-e", "1", "--steps", "1")
    records = records_of(here / "out")
    clean, robust = accuracy_of(records)
    assert clean == 0.75
    shares = f"75.0 % clean, {percent(robust)} robust"
    assert f"  accuracy of linear: {shares}, of 4 photos with a true label" in ran.err.splitlines()
    told = [{"model": "linear", "photos": 4, "clean_accuracy": clean, "robust_accuracy": robust}]
    assert json.loads(Path("out/summary.json").read_bytes())["accuracies"] == told
    rows = list(csv.DictReader(io.StringIO(Path("out/results.csv").read_text())))
    seen_by = by_source(here / "out")
    for row in rows:
        record = seen_by[Path(row["photo"]).name]
        assert row["true_label"] == Path(row["photo"]).parent.name
        for when in ("before", "after"):
            assert row[f"{when}_correct"] == str(record[when][0]["name"] == row["true_label"]).lower()


def test_labels_may_be_given_once_all_is_done(cli: Cli, labelled: list[Path], here: Path) -> None:
    without = [each for each in BATCH if each not in ("--true-labels", "folders")]
    assert cli(*without).code == 0
    assert "accuracies" not in json.loads(Path("out/summary.json").read_bytes())
    table = "".join(f"photos/{path.parent.name}/{path.name},{path.parent.name}\n" for path in labelled[:3])
    Path("labels.csv").write_text(f"photo,label\n{table}")
    ran = cli(*without, "--true-labels", "labels.csv")
    assert ran.code == 0
    assert "4 of 4 were done by an earlier run" in ran.err
    assert "note: labels.csv names 3 of the 4 photos; the others are in no accuracy" in ran.err
    (told,) = json.loads(Path("out/summary.json").read_bytes())["accuracies"]
    assert (told["photos"], told["clean_accuracy"], told["robust_accuracy"]) == (3, 0.666667, 0)


def test_a_sweep_tells_accuracies_at_each_eps(cli: Cli, labelled: list[Path], here: Path) -> None:
    ran = cli(
        "sweep", "photos", "-r", "--untargeted", "-e", "1,8", "--true-labels", "folders", "--steps", "1", "-O", "out"
    )
    assert ran.code == 0, ran.err
    points = json.loads(Path("out/sweep.json").read_bytes())["points"]
    lines = [line.split() for line in ran.err.splitlines()]
    table = lines[next(number for number, line in enumerate(lines) if line[:2] == ["model", "ε"]) :]
    assert table[0][-2:] == ["clean", "robust"]
    (folder,) = (path for path in (here / "out").iterdir() if path.is_dir())
    for point, row in zip(points, table[1:3], strict=True):
        records = [each for each in records_of(folder) if each["eps"] == point["eps"]]
        assert (point["clean_accuracy"], point["robust_accuracy"]) == accuracy_of(records)
        assert point["labelled"] == 4
        assert row[-4:-2] == ["75.0", "%"]


def test_python_takes_true_labels(labelled: list[Path], here: Path) -> None:
    stats = advimg.batch(
        "photos", "untargeted", model=quick_classifier(), out_dir="out", recursive=True, true_labels="folders"
    )
    assert stats.accuracies == [Accuracy("linear", photos=4, clean=3, robust=0)]
