"""The targets of a batch: one by one, or as a table of pairs."""

import io
from pathlib import Path

import pytest

from advimg.batches.pairs import Pair, read_pairs, read_targets
from advimg.batches.plan import Key, each_pair
from advimg.errors import UsageError
from advimg.labels import Labels
from advimg.settings import TargetRule

LABELS = Labels(["pelican", "German shepherd", "crane", "crane", "bow, tie"])


def pairs_of(text: str) -> list[Pair]:
    return read_pairs(io.StringIO(text, newline=""), LABELS, name="pairs.csv")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pelican", [0]),
        ("german_shepherd", [1]),
        ("3", [3]),
        ("random", ["random"]),
        (" Least_Likely ", ["least-likely"]),
        ("runner-up", ["runner-up"]),
        ("ALL", [0, 1, 2, 3, 4]),
    ],
)
def test_a_target_is_a_class_a_rule_or_all(text: str, expected: list[int | TargetRule]) -> None:
    assert read_targets((text,), LABELS) == expected


def test_several_targets_are_taken_once_each() -> None:
    assert read_targets(("random", "1", "pelican", "all", "random"), LABELS) == ["random", 1, 0, 2, 3, 4]
    with pytest.raises(UsageError, match="unknown class 'pelicann'"):
        read_targets(("0", "pelicann"), LABELS)


@pytest.mark.parametrize(
    "text",
    [
        "path,target\na.jpg,pelican\n",
        "path,target\r\na.jpg,pelican\r\n",
        "target,path\npelican,a.jpg",
        " Path , TARGET \n a.jpg , pelican \n",
        "path,target,eps\na.jpg,pelican,\n",
        "path,target,eps\na.jpg,pelican\n",
        "path,target\n\na.jpg,pelican\n\n",
        'path,target\n"a.jpg","pelican"\n',
    ],
)
def test_tables_of_many_looks(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pairs_of(text) == [Pair(tmp_path / "a.jpg", 0, None)]


def test_a_table_may_give_each_line_its_own_eps() -> None:
    pairs = pairs_of("eps,path,target\n4,/a.jpg,0\n8/255,/a.jpg,0\n,/b.jpg,random\n")
    assert [(pair.path.name, pair.target, pair.eps) for pair in pairs] == [
        ("a.jpg", 0, 4),
        ("a.jpg", 0, 8),
        ("b.jpg", "random", None),
    ]
    assert each_pair(pairs, 10) == [
        Key(pairs[0].path, 0, 4),
        Key(pairs[0].path, 0, 8),
        Key(pairs[2].path, "random", 10),
    ]


def test_all_in_a_table_is_a_pair_for_each_class() -> None:
    assert [pair.target for pair in pairs_of("path,target\na.jpg,all\n")] == [0, 1, 2, 3, 4]


def test_commas_in_quotes_are_part_of_the_value() -> None:
    (pair,) = pairs_of('path,target\n"a, b.jpg","bow, tie"\n')
    assert (pair.path.name, pair.target) == ("a, b.jpg", 4)


def test_a_photo_s_pairs_stand_together_and_once() -> None:
    a, b = Path("/a.jpg"), Path("/b.jpg")
    pairs = [Pair(a, 0, None), Pair(b, 0, 3), Pair(a, 1, None), Pair(a, 0, 10)]
    assert each_pair(pairs, 10) == [Key(a, 0, 10), Key(a, 1, 10), Key(b, 0, 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must be path,target"),
        ("a.jpg,pelican\n", "the first line must be path,target"),
        ("path\na.jpg\n", "the first line must be path,target"),
        ("path,target,epsilon\na.jpg,0,1\n", "the first line must be path,target"),
        ("\ufeffpath,target\na.jpg,0\n", "the first line must be path,target"),
        ("path,target\n", "no line below its header"),
        ("path,target\na.jpg,pelican\nb.jpg,pelicann\n", r"pairs\.csv, line 3: unknown class 'pelicann'"),
        ("path,target\na.jpg,crane\n", "line 2: .*ambiguous"),
        ("path,target\na.jpg,pelican\n\nb.jpg,\n", "line 4: path and target are both needed"),
        ("path,target\n,pelican\n", "line 2: path and target are both needed"),
        ("path,target\na.jpg\n", "line 2: path and target are both needed"),
        ("path,target\na, b.jpg,pelican\n", "line 2: more values than columns"),
        ("path,target,eps\na.jpg,pelican,0.04\n", "line 2: eps .* write 10"),
        ("path,target,eps\na.jpg,pelican,ten\n", "line 2: eps 'ten' is not a number"),
        ("path,target,eps\na.jpg,pelican,256\n", "line 2: eps 256 is out of range"),
        ('path,target\n"a.jpg,pelican\n', "not a CSV table"),
    ],
)
def test_a_wrong_table_is_one_line_that_names_the_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        pairs_of(text)
    assert str(caught.value).startswith("pairs.csv")
    assert "\n" not in str(caught.value)
