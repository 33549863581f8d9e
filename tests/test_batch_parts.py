"""The parts of a batch, each on its own: photos, targets, names, journal, counts.

And the engine when things go wrong: no memory, no photo ready, a photo that cannot be attacked.
"""

import gc
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from weakref import WeakSet

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advimg.attacks.target_rules import RULES, choose_target
from advimg.batch.journal import Entry, Journal, differences, folder_settings
from advimg.batch.pairs import Pair, read_pairs, read_targets
from advimg.batch.photos import Found, common_root, find_photos, is_output, read_list
from advimg.batch.plan import Files, Item, Key, each_pair, each_towards, plan_items
from advimg.batch.stats import BatchStats
from advimg.classifiers.classifier import Classifier, Verdict
from advimg.engine.attack_state import AttackState
from advimg.engine.capacity import Capacity, is_out_of_memory
from advimg.engine.engine import Engine, StepReport
from advimg.engine.job import Failed, Job, Result
from advimg.errors import ClassifierError, DiskError, OutputError, PhotoError, UsageError
from advimg.images.encode import encode_png
from advimg.images.photo import Photo
from advimg.labels import Labels
from advimg.record import Failure
from advimg.settings import Settings, TargetRule
from tests.batches import attack_all, open_descriptors, save_photos
from tests.conftest import linear_classifier, random_photo, run_all

# Which photos.


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_adversarial(path: Path) -> Path:
    return write(path, encode_png(random_photo(3, 3).levels, chunk="{}"))


def found_names(found: Found) -> list[str]:
    return [str(photo.relative_to(found.root)) for photo in found.photos]


def find(*paths: Path, out_dir: Path = Path("nowhere"), recursive: bool = False) -> Found:
    return find_photos(paths, out_dir=out_dir, recursive=recursive)


def test_a_folder_gives_its_photos_sorted_and_nothing_else(tmp_path: Path) -> None:
    for name in ("c.jpg", "a.JPEG", "b.webp", "notes.txt", ".hidden.jpg", "._a.jpg", "jpg", "sub/d.jpg"):
        write(tmp_path / name)
    (tmp_path / "folder.jpg").mkdir()
    found = find(tmp_path)
    assert found_names(found) == ["a.JPEG", "b.webp", "c.jpg"]
    assert (found.root, found.own) == (tmp_path, 0)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "tif", "tiff", "gif", "PNG"])
def test_every_readable_kind_is_found(tmp_path: Path, suffix: str) -> None:
    photo = write(tmp_path / f"x.{suffix}")
    assert find(tmp_path).photos == (photo,)


def test_recursive_looks_into_folders_that_are_not_hidden(tmp_path: Path) -> None:
    for name in ("z.jpg", "b/2.jpg", "b/1.jpg", "a/3.jpg", "a/deep/4.jpg", ".cache/5.jpg"):
        write(tmp_path / name)
    found = find(tmp_path, recursive=True)
    assert found_names(found) == ["z.jpg", "a/3.jpg", "a/deep/4.jpg", "b/1.jpg", "b/2.jpg"]


def test_a_named_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    paths = [write(tmp_path / name) for name in ("photo", ".hidden.jpg", "notes.txt")]
    assert find(*paths).photos == tuple(paths)


def test_a_path_that_leads_nowhere_is_kept_beside_others(tmp_path: Path) -> None:
    photo = write(tmp_path / "a.jpg")
    assert find(tmp_path / "no.jpg", photo).photos == (tmp_path / "no.jpg", photo)


def test_nothing_but_paths_that_lead_nowhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"no\.jpg does not exist"):
        find(tmp_path / "no.jpg")
    with pytest.raises(PhotoError, match="none of the paths given exists"):
        find(tmp_path / "no.jpg", tmp_path / "neither.jpg")


def test_a_photo_that_is_named_twice_is_taken_once_in_the_order_of_naming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        write(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    found = find(Path("c.jpg"), tmp_path / "c.jpg", Path("./c.jpg"), tmp_path)
    assert found_names(found) == ["c.jpg", "a.jpg", "b.jpg"]


def test_the_root_is_the_deepest_folder_that_holds_all(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a/b/1.jpg"), write(tmp_path / "a/c/2.jpg")
    assert find(one).root == tmp_path / "a/b"
    assert find(one.parent).root == tmp_path / "a/b"
    assert find(one.parent, two).root == tmp_path / "a"
    assert find(one, tmp_path / "other/no.jpg").root == tmp_path
    assert find(one, tmp_path).root == tmp_path
    assert common_root([tmp_path / "a", tmp_path / "ab"]) == tmp_path


def test_the_output_folder_is_never_looked_into(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(tmp_path / "a.jpg")
    write(out / "b.jpg")
    write(out / "sub/c.jpg")
    assert found_names(find(tmp_path, out_dir=out, recursive=True)) == ["a.jpg"]
    found = find(tmp_path / "a.jpg", out / "b.jpg", out / "sub", out_dir=out)
    assert (found_names(found), found.own) == (["a.jpg"], 2)


def test_the_output_folder_as_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "out/a.jpg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PhotoError, match="is the output folder"):
        find(Path("out"), out_dir=tmp_path / "out")
    with pytest.raises(PhotoError, match="is the output folder"):
        find(tmp_path / "out", out_dir=Path("out"))


def test_photos_inside_the_output_folder_are_not_said_to_be_advimg_s(tmp_path: Path) -> None:
    write(tmp_path / "photos/a.jpg")
    with pytest.raises(PhotoError, match="output folder"):
        find(tmp_path / "photos", out_dir=tmp_path)


def test_what_advimg_wrote_is_never_taken(tmp_path: Path) -> None:
    write_adversarial(tmp_path / "dog_pelican.png")
    for name in ("dog_pelican_x10.png", "dog_pelican_x2.5.png", "dog_pelican_x1e-05.png", "dog_pelican_figure.png"):
        write(tmp_path / name)
    mine = [write(tmp_path / name) for name in ("cat_figure.png", "cat_x10.png", "dog.png", "dog_pelican_x10.jpg")]
    found = find(tmp_path)
    assert set(found.photos) == set(mine)
    assert found.own == 5
    assert find(tmp_path / "dog_pelican.png", mine[0]).photos == (mine[0],)


def test_a_folder_of_advimg_s_own_files_says_so(tmp_path: Path) -> None:
    write_adversarial(tmp_path / "dog_pelican.png")
    with pytest.raises(PhotoError, match="only files that advimg wrote"):
        find(tmp_path)


def test_nothing_found_hints_at_recursive(tmp_path: Path) -> None:
    write(tmp_path / "sub/a.jpg")
    with pytest.raises(PhotoError, match=r"no photos .*--recursive"):
        find(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotoError, match="no photos") as caught:
        find(tmp_path / "empty", recursive=True)
    assert "--recursive" not in str(caught.value)
    with pytest.raises(PhotoError, match="the 2 paths given"):
        find(tmp_path / "empty", tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_keep_their_own_name_and_place(tmp_path: Path) -> None:
    write(tmp_path / "store/1.jpg")
    (tmp_path / "photos").mkdir()
    link = tmp_path / "photos/dog.jpg"
    link.symlink_to(tmp_path / "store/1.jpg")
    assert find(tmp_path / "photos").photos == (link,)
    (tmp_path / "out").symlink_to(tmp_path / "photos")
    with pytest.raises(PhotoError, match="output folder"):
        find(tmp_path / "photos", out_dir=tmp_path / "out")
    assert is_output(link, tmp_path / "out")
    assert not is_output(link, tmp_path / "store")


def test_lists_are_paths_one_a_line() -> None:
    lines = [b"a b.jpg\n", b"\n", b"  \n", b"c.jpg\r\n", "é.jpg\n".encode(), b" d.jpg"]
    assert read_list(lines, name="x") == ["a b.jpg", "c.jpg", "é.jpg", " d.jpg"]
    with pytest.raises(UsageError, match="x names no photo"):
        read_list([b"\n", b" \n"], name="x")


# Towards what.

LABELS = Labels(["pelican", "German shepherd", "crane", "crane", "bow, tie"])
RULE_NAMES: tuple[TargetRule, ...] = ("random", "least-likely", "runner-up")


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


# Which rule chooses what.


@pytest.mark.parametrize(("rule", "expected"), [("least-likely", 2), ("runner-up", 3)])
def test_rules_that_go_by_rank(rule: TargetRule, expected: int) -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.05, 0.35])
    assert choose_target(rule, probabilities, seed="any") == expected


def test_random_is_any_class_but_the_present_one_with_equal_chances() -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.3, 0.1])
    draw = Random(1)
    chosen = [RULES["random"](probabilities, draw) for _ in range(3000)]
    counts = [chosen.count(index) for index in range(4)]
    assert counts[1] == 0
    assert all(900 < counts[index] < 1100 for index in (0, 2, 3))


def test_the_seed_decides_what_random_is() -> None:
    probabilities = torch.full((1000,), 0.001)
    first = choose_target("random", probabilities, seed="0 abc")
    assert choose_target("random", probabilities, seed="0 abc") == first
    assert len({choose_target("random", probabilities, seed=f"{seed} abc") for seed in range(20)}) > 15


@pytest.mark.parametrize("rule", RULES)
def test_a_network_of_one_class_has_one_target(rule: TargetRule) -> None:
    assert choose_target(rule, torch.tensor([1.0]), seed="") == 0


# Which names.

ROOT, OUT = Path("/photos"), Path("/out")
FILES = Files(folder=OUT, root=ROOT, figure=True)


def names(keys: Iterable[Key], recorded: dict[Key, Path] | None = None, labels: Labels = LABELS) -> list[str]:
    items = plan_items(list(keys), FILES, labels, recorded=recorded or {})
    return [str(item.outputs.adversarial.relative_to(OUT)) for item in items]


def keys_of(*names: str, target: int | TargetRule = 0, eps: int = 10) -> list[Key]:
    return [Key(ROOT / name, target, eps) for name in names]


def test_files_are_named_after_photo_and_target() -> None:
    (item,) = plan_items(keys_of("dog.jpg"), FILES, LABELS, recorded={})
    assert [(kind, path.name) for kind, path in item.outputs] == [
        ("adversarial", "dog_pelican.png"),
        ("perturbation", "dog_pelican_x10.png"),
        ("figure", "dog_pelican_figure.png"),
    ]
    assert names(keys_of("a.b.jpg", target=1)) == ["a.b_german_shepherd.png"]
    assert names(each_towards([ROOT / "a.jpg"], [2, 3, "least-likely"], 10)) == [
        "a_crane_2.png",
        "a_crane_3.png",
        "a_least_likely.png",
    ]


def test_the_output_folder_mirrors_the_tree() -> None:
    assert names(keys_of("a.jpg", "sub/a.jpg", "sub/deep/a.jpg")) == [
        "a_pelican.png",
        "sub/a_pelican.png",
        "sub/deep/a_pelican.png",
    ]


def test_photos_of_one_stem_do_not_collide() -> None:
    assert names(keys_of("dog.jpg", "dog.png", "cat.jpg")) == [
        "dog_jpg_pelican.png",
        "dog_png_pelican.png",
        "cat_pelican.png",
    ]


def test_two_eps_of_one_pair_do_not_collide() -> None:
    assert names(keys_of("dog.jpg", eps=2) + keys_of("dog.jpg", eps=4)) == [
        "dog_pelican_eps2.png",
        "dog_pelican_eps4.png",
    ]


def test_names_differ_by_more_than_the_case_of_letters() -> None:
    given = names(keys_of("dog.jpg", "Dog.jpg", "DOG.JPG", "Sub/a.jpg", "sub/a.jpg"))
    assert len({name.casefold() for name in given}) == 5


def test_recorded_attacks_keep_their_names() -> None:
    old, new, other = keys_of("dog.jpg", "dog.png", "cat.jpg")
    recorded = {old: OUT / "dog_pelican.png"}
    assert names([old, new, other], recorded) == ["dog_pelican.png", "dog_png_pelican.png", "cat_pelican.png"]
    # Of an attack that is not asked for again, too.
    assert names([new], recorded) == ["dog_png_pelican.png"]


def test_a_class_may_be_called_like_the_files_beside_a_picture() -> None:
    labels = Labels(["pelican", "x10", "figure"])
    items = plan_items(
        each_towards([ROOT / "dog.jpg", ROOT / "dog_pelican.jpg"], [0, 1, 2], 10), FILES, labels, recorded={}
    )
    paths = [path for item in items for _, path in item.outputs]
    assert len(set(paths)) == len(paths)


_STEMS = st.sampled_from(["dog", "Dog", "dog_pelican", "dog_jpg", "dog_jpg_pelican_eps4_2", "dog.jpg", "ß", "ss"])
_SUFFIXES = st.sampled_from(["", ".jpg", ".JPG", ".png"])
_PLACES = st.sampled_from(["", "sub", "Sub", "sub/sub"])
_SOURCES = st.builds(lambda place, stem, suffix: ROOT / place / f"{stem}{suffix}", _PLACES, _STEMS, _SUFFIXES)
_TARGETS: st.SearchStrategy[int | TargetRule] = st.sampled_from([0, 1, 2, 3, "random", "runner-up"])
_KEYS = st.lists(st.builds(Key, _SOURCES, _TARGETS, st.sampled_from([2, 4])), unique=True, max_size=25)
_COLLIDING = Labels(["pelican", "pelican eps4", "jpg pelican", "2"])


@given(earlier=_KEYS, later=_KEYS)
def test_no_two_attacks_share_a_file_and_all_are_in_the_mirror(earlier: list[Key], later: list[Key]) -> None:
    first = plan_items(earlier, FILES, _COLLIDING, recorded={})
    recorded = {item.key: item.outputs.adversarial for item in first}
    second = plan_items(later, FILES, _COLLIDING, recorded=recorded)
    assert [item.key for item in second] == later
    assert all(item.outputs.adversarial == recorded[item.key] for item in second if item.key in recorded)
    items: dict[Key, Item] = {item.key: item for item in (*first, *second)}
    paths = [path for item in items.values() for _, path in item.outputs]
    assert len({str(path).casefold() for path in paths}) == len(paths)
    for item in items.values():
        for _, path in item.outputs:
            assert path.parent == OUT / item.key.source.parent.relative_to(ROOT)


# The journal.


def record(source: str = "/a.jpg", *, outputs: Iterable[Path] = (), **changes: Any) -> dict[str, Any]:
    """A record of an attack that wrote ``outputs``; of one that failed, if there are none."""
    written = dict(zip(("adversarial", "perturbation"), map(str, outputs), strict=False))
    asked = {"model": "m", "eps": 10, "min_confidence": 0.9, "max_steps": 100, "step_size": 5.0, "momentum": 0.75}
    known = asked | {"loss": "ce", "restarts": 0, "seed": 0, "target": {"index": 1, "name": "x"}, "source_sha256": "0"}
    plain = Failure(source, "broken", known).to_dict()
    if written:
        plain |= {"error": None, "fooled": True, "gradients": 3, "outputs": written}
    return plain | {"adversarial_sha256": "1" if written else None} | changes


def key(source: str = "/a.jpg", target: int | TargetRule = 1, eps: int = 10) -> Key:
    return Key(Path(source), target, eps)


def line(source: str = "/a.jpg", **changes: Any) -> bytes:
    return json.dumps(record(source, **changes)).encode() + b"\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out"


def lines_of(folder: Path) -> list[dict[str, Any]]:
    data = (folder / "results.jsonl").read_bytes()
    assert data.endswith(b"\n") or not data
    return [json.loads(each) for each in data.splitlines()]


def opened(folder: Path) -> dict[Key, Entry]:
    with Journal.opened(folder) as journal:
        return dict(journal.entries)


def test_what_is_appended_is_read_back(folder: Path) -> None:
    files = [folder / "a_x.png", folder / "a_x_x10.png"]
    done, failed = record("/a.jpg", outputs=files), record("/ф\n.jpg", target=None, target_rule="random", eps=3)
    with Journal.opened(folder) as journal:
        assert journal.entries == {}
        journal.append(done)
        journal.append(failed)
    assert lines_of(folder) == [done, failed]
    assert {path.name for path in folder.iterdir()} == {"results.jsonl"}
    entries = opened(folder)
    assert list(entries) == [key("/a.jpg"), key("/ф\n.jpg", "random", 3)]
    first, second = entries.values()
    assert first == Entry(
        key("/a.jpg"),
        source_sha256="0",
        outputs={"adversarial": files[0], "perturbation": files[1]},
        adversarial_sha256="1",
        settings=folder_settings(done),
        error=None,
        fooled=True,
        gradients=3,
        checked={},
    )
    assert (second.error, second.fooled, second.gradients, second.outputs) == ("broken", False, 0, {})


def test_the_class_with_index_0_is_a_target_like_any_other(folder: Path) -> None:
    with Journal.opened(folder) as journal:
        journal.append(record(target={"index": 0, "name": "zero"}))
    assert list(opened(folder)) == [key(target=0)]


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_torn_last_line_is_cut(folder: Path, cut: int) -> None:
    whole, torn = line("/a.jpg"), line("/b.jpg")
    write(folder / "results.jsonl", whole + torn[:cut])
    with Journal.opened(folder) as journal:
        assert list(journal.entries) == [key("/a.jpg")]
        journal.append(record("/c.jpg"))
    assert [each["source"] for each in lines_of(folder)] == ["/a.jpg", "/c.jpg"]


def test_a_journal_of_nothing_but_a_torn_line_begins_anew(folder: Path) -> None:
    write(folder / "results.jsonl", line()[:70])
    with Journal.opened(folder) as journal:
        assert journal.entries == {}
        journal.append(record())
    assert lines_of(folder) == [record()]


@pytest.mark.parametrize("junk", [b"\0\0\0\0\n", b"{\n", b"\xff\xfe\n", b"\n"])
def test_an_unreadable_line_in_the_middle_is_dropped(folder: Path, junk: bytes) -> None:
    write(folder / "results.jsonl", line("/a.jpg") + junk + line("/b.jpg"))
    assert list(opened(folder)) == [key("/a.jpg"), key("/b.jpg")]
    assert (folder / "results.jsonl").read_bytes() == line("/a.jpg") + line("/b.jpg")


def test_of_two_records_of_one_attack_the_last_stays(folder: Path) -> None:
    write(folder / "results.jsonl", line(seed=1) + line("/b.jpg") + line(seed=2) + line("/b.jpg", eps=3))
    assert opened(folder)[key()].settings == folder_settings(record(seed=2))
    assert sorted((each["source"], each["eps"], each["seed"]) for each in lines_of(folder)) == [
        ("/a.jpg", 10, 2),
        ("/b.jpg", 3, 0),
        ("/b.jpg", 10, 0),
    ]


_FOREIGN = {
    "another's lines": b'{"name": "dog", "score": 1}\n{"name": "cat", "score": 2}\n',
    "a line of ours, then another's": line() + b'{"name": "dog"}\n',
    "a list": b"[1, 2]\n",
    "a number": b"3\n",
    "a word": b'"x"\n',
    "null": b"null\n",
    "a document without a newline": b'{"name": "dog"}',
    "a document of many lines": b'{\n  "name": "dog"\n}\n',
    "plain text": b"my notes\nof today\n",
    "a picture": encode_png(random_photo(5, 5).levels),
}


@pytest.mark.parametrize("kind", _FOREIGN)
def test_a_file_that_is_no_journal_is_refused_and_stays_as_it_was(folder: Path, kind: str) -> None:
    path = write(folder / "results.jsonl", _FOREIGN[kind])
    with pytest.raises(OutputError, match="no journal of advimg batch"), Journal.opened(folder):
        pass
    assert path.read_bytes() == _FOREIGN[kind]
    assert list(folder.iterdir()) == [path]


def test_a_folder_named_like_the_journal_is_one_error(folder: Path) -> None:
    (folder / "results.jsonl").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"cannot read .*results\.jsonl"), Journal.opened(folder):
        pass


def test_dropped_records_go_at_once_and_their_files_at_the_end(folder: Path) -> None:
    old, kept = write(folder / "sub/a_x.png"), write(folder / "b_x.png")
    write(folder / "results.jsonl", line("/a.jpg", outputs=[old]) + line("/b.jpg", outputs=[kept]))
    with Journal.opened(folder) as journal:
        assert not journal.owns(old)
        journal.drop([key("/a.jpg")])
        assert list(journal.entries) == [key("/b.jpg")]
        assert [each["source"] for each in lines_of(folder)] == ["/b.jpg"]
        assert journal.owns(old)
        assert old.exists()
        journal.append(record("/c.jpg"))
    assert not old.exists()
    assert kept.exists()
    assert [each["source"] for each in lines_of(folder)] == ["/b.jpg", "/c.jpg"]


def test_a_dropped_attack_that_is_made_anew_keeps_its_files(folder: Path) -> None:
    old, beside = write(folder / "a_x.png"), write(folder / "a_x_x10.png")
    write(folder / "results.jsonl", line(outputs=[old, beside]))
    with Journal.opened(folder) as journal:
        journal.drop([key()])
        journal.claim([old])
        old.write_bytes(b"new")
        journal.append(record(outputs=[old]))
        assert not journal.owns(old)
    assert old.read_bytes() == b"new"
    assert not beside.exists()


def test_a_disk_that_refuses_the_new_journal_loses_no_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write(folder / "a_x.png")
    before = write(folder / "results.jsonl", line(outputs=[old])).read_bytes()

    def refuse(*arguments: Any, **options: Any) -> None:
        raise DiskError("full")

    monkeypatch.setattr("advimg.batch.journal.write_whole", refuse)
    with pytest.raises(DiskError), Journal.opened(folder) as journal:
        journal.drop([key()])
    assert old.exists()
    assert (folder / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize("outside", ["../precious.png", "sub/../../precious.png"])
def test_a_journal_has_no_hold_over_files_elsewhere(folder: Path, outside: str) -> None:
    precious = write(folder.parent / "precious.png")
    write(folder / "results.jsonl", line(outputs=[folder / outside]))
    with pytest.raises(OutputError, match="no journal"), Journal.opened(folder):
        pass
    (folder / "results.jsonl").unlink()
    write(folder / ".advimg.unfinished", json.dumps(outside).encode() + b"\n")
    assert opened(folder) == {}
    assert precious.exists()


def test_claimed_files_without_a_record_go_at_the_end_and_others_never(folder: Path) -> None:
    foreign = write(folder / "foreign.png")
    claimed, recorded = folder / "claimed.png", folder / "recorded.png"
    with Journal.opened(folder) as journal:
        journal.claim([claimed, recorded, foreign])
        assert journal.owns(claimed)
        assert not journal.owns(foreign)
        write(claimed)
        write(recorded)
        write(folder / "later.png")
        journal.append(record(outputs=[recorded]))
    assert {path.name for path in folder.iterdir()} == {"foreign.png", "recorded.png", "later.png", "results.jsonl"}


_KILLED = """
import json, os, sys
from pathlib import Path
from advimg.batch.journal import Journal
folder = Path(sys.argv[1])
with Journal.opened(folder) as journal:
    paths = [folder / name for name in ("sub/claimed.png", "recorded.png", "foreign.png", "never.png")]
    journal.claim(paths)
    for path in paths[:2]:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (folder / "sub" / f".advimg-{os.getpid()}-abcd.tmp").write_bytes(b"half")
    journal.append(json.loads(sys.argv[2]))
    os._exit(9)
"""


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_else(folder: Path) -> None:
    foreign = write(folder / "foreign.png", b"mine")
    later = folder / "sub/later.png"
    recorded = json.dumps(record(outputs=[folder / "recorded.png"]))
    assert subprocess.run([sys.executable, "-c", _KILLED, str(folder), recorded], check=False).returncode == 9
    assert {path.name for path in folder.iterdir()} > {".advimg.lock", ".advimg.unfinished"}
    write(later)
    with Journal.opened(folder) as journal:
        assert list(journal.entries) == [key()]
        assert not any(journal.owns(path) for path in folder.rglob("*.png"))
    left = {path for path in folder.rglob("*") if path.is_file()}
    assert left == {foreign, later, folder / "recorded.png", folder / "results.jsonl"}
    assert foreign.read_bytes() == b"mine"


_HOLDING = """
import sys
from pathlib import Path
from advimg.batch.journal import Journal
with Journal.opened(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_while_one_writes(folder: Path) -> None:
    write(folder / "results.jsonl", line() + b"torn")
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDING, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"open"
        (folder / "results.jsonl").write_bytes(line() + b"torn")
        with pytest.raises(OutputError, match="another advimg batch is writing"), Journal.opened(folder):
            pass
        assert (folder / "results.jsonl").read_bytes() == line() + b"torn"
        holder.communicate()
    assert list(opened(folder)) == [key()]


def test_a_folder_that_nothing_came_of_is_left_as_it_was(folder: Path) -> None:
    with Journal.opened(folder):
        assert folder.is_dir()
    assert not folder.exists()
    folder.mkdir()
    with Journal.opened(folder):
        pass
    assert list(folder.iterdir()) == []


def test_an_error_in_a_run_leaves_a_closed_and_whole_journal(folder: Path) -> None:
    def fail() -> None:
        with Journal.opened(folder) as journal:
            journal.append(record())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in folder.iterdir()] == ["results.jsonl"]
    assert list(opened(folder)) == [key()]


class _Full(io.FileIO):
    """A file on a disk that takes no more than half of what is written; then none of it, or an error."""

    def __init__(self, path: Path, *, fails: bool) -> None:
        super().__init__(path, "ab")
        self._fails = fails

    def write(self, data: Any, /) -> int:
        written = super().write(data[: len(data) // 2])
        if self._fails:
            raise OSError(28, "No space left on device")
        return written


@pytest.mark.parametrize("fails", [True, False])
def test_a_partial_write_leaves_the_journal_whole(folder: Path, fails: bool) -> None:
    with Journal.opened(folder) as journal:
        journal.append(record("/a.jpg"))
        whole, journal._file = journal._file, _Full(folder / "results.jsonl", fails=fails)
        with pytest.raises(DiskError, match="No space left"):
            journal.append(record("/b.jpg"))
        assert lines_of(folder) == [record("/a.jpg")]
        journal._file.close()
        journal._file = whole
        journal.append(record("/c.jpg"))
    assert [each["source"] for each in lines_of(folder)] == ["/a.jpg", "/c.jpg"]


def test_an_attack_whose_record_did_not_fit_leaves_no_files(folder: Path) -> None:
    path = folder / "a_x.png"
    with Journal.opened(folder) as journal:
        journal.append(record("/b.jpg"))
        journal.claim([path])
        write(path)
        journal._file.close()
        journal._file = _Full(folder / "results.jsonl", fails=True)
        with pytest.raises(DiskError):
            journal.append(record(outputs=[path]))
    assert [path.name for path in folder.iterdir()] == ["results.jsonl"]


def test_changed_settings_are_named() -> None:
    one, other = map(folder_settings, (record(), record(seed=3, max_steps=7, device="cuda", precision="bf16")))
    assert differences(one, one) == []
    assert differences(one, other) == ["seed 0 there, 3 here", "max_steps 100 there, 7 here"]


# The counts.


def _tally() -> BatchStats:
    stats = BatchStats(6)
    stats.add(source="a", fooled=True, error=None, gradients=4, earlier=True)
    stats.add(source="b", fooled=True, error=None, gradients=6)
    stats.add(source="c", fooled=False, error=None, gradients=101)
    stats.add(source="d", fooled=False, error="broken", gradients=0)
    return stats


def test_a_tally_counts() -> None:
    stats = _tally()
    assert (stats.done, stats.verified, stats.not_reached, stats.earlier, stats.gradients) == (4, 2, 1, 1, 111)
    assert stats.failures == [("d", "broken")]
    assert stats.gradients_each == 37


def test_the_pace_is_that_of_this_run_s_results() -> None:
    """Failures take no time, and would promise too much."""
    stats = _tally()
    stats.end()
    assert stats.rate == pytest.approx(2 / stats.seconds)
    assert stats.seconds_left == pytest.approx(2 * stats.seconds / 2)
    spent = stats.seconds
    assert stats.seconds == spent
    stats.start()
    stats.end()
    assert stats.seconds < spent


def test_nothing_tells_the_pace_before_the_first() -> None:
    stats = BatchStats(2)
    assert (stats.rate, stats.seconds_left, stats.gradients_each, stats.exit_code) == (None, None, None, 0)
    stats.add(source="a", fooled=True, error=None, gradients=4, earlier=True)
    assert stats.rate is None


@pytest.mark.parametrize(
    ("ends", "code"),
    [([(True, None)], 0), ([(True, None), (False, None)], 3), ([(False, None), (False, "x"), (True, None)], 1)],
)
def test_the_exit_code_tells_the_worst(ends: list[tuple[bool, str | None]], code: int) -> None:
    stats = BatchStats(len(ends))
    for fooled, error in ends:
        stats.add(source="a", fooled=fooled, error=error, gradients=1)
    assert stats.exit_code == code


def test_the_summary_holds_what_was_asked_and_what_came_of_it() -> None:
    summary = _tally().summary({"eps": 10, "model": "m"})
    assert list(summary) == [
        *("eps", "model", "total", "verified", "not_reached", "failed", "checked_fooled"),
        *("unfinished", "earlier", "seconds", "per_second", "gradients_each", "failures"),
    ]
    counts = [summary[name] for name in ("total", "verified", "not_reached", "failed", "unfinished", "earlier")]
    assert counts == [6, 2, 1, 1, 2, 1]
    assert summary["failures"] == [{"source": "d", "error": "broken"}]
    assert json.loads(json.dumps(summary)) == summary


# How much memory has room for.


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (PhotoError("out of memory"), False),
    ],
)
def test_what_out_of_memory_looks_like(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_the_room_of_a_cpu() -> None:
    cpu = torch.device("cpu")
    auto = Capacity.of(cpu, "auto")
    assert 1 <= auto.slots <= 8
    assert auto.pixels > 1_000_000
    assert Capacity.of(cpu, 33) == Capacity(33, auto.pixels)


def test_little_memory_is_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advimg.engine.capacity._memory", lambda _: 1 << 31)
    assert Capacity.of(torch.device("cpu"), "auto").slots == 2
    monkeypatch.setattr("advimg.engine.capacity._memory", lambda _: 1 << 20)
    assert Capacity.of(torch.device("cpu"), "auto").slots == 1


def test_a_system_that_does_not_tell_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sysconf", raising=False)
    assert Capacity.of(torch.device("cpu"), "auto").slots >= 1


# The engine when things go wrong.

NEVER = Settings(confidence=0.999999, steps=5)
"""Settings that a small linear network never satisfies: every attack takes six passes."""


class _Narrow(torch.nn.Module):
    """A linear network that memory has room for only with ``most`` photos at a time, or ``most`` with a gradient."""

    def __init__(self, most: int, error: Callable[[], Exception], *, judges: bool = True) -> None:
        super().__init__()
        self.linear = linear_classifier(classes=4, scale=0.02).network
        self.most = most
        self.error = error
        self.judges = judges

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        if len(picture) > self.most and not (self.judges and not picture.requires_grad):
            raise self.error()
        logits: torch.Tensor = self.linear(picture)
        return logits


def _wrapped(network: torch.nn.Module, classes: int = 4, *, resize: int = 8) -> Classifier:
    half = (0.5, 0.5, 0.5)
    labels = [str(index) for index in range(classes)]
    return Classifier.wrap(network, labels=labels, mean=half, std=half, resize=resize, crop=8, device="cpu")


def _cuda() -> Exception:
    return torch.cuda.OutOfMemoryError("CUDA out of memory.")


def _cpu() -> Exception:
    return RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")


def _jobs(count: int, settings: Settings | None = None) -> list[Job]:
    return [
        Job(
            photo=random_photo(8 + seed, 12, seed),
            target=seed % 4,
            settings=settings or Settings(eps=3 + seed % 3, confidence=0.6, steps=10),
        )
        for seed in range(count)
    ]


def _levels(results: Iterable[Result]) -> dict[Job, bytes]:
    return {result.job: result.levels.tobytes() for result in results}


@pytest.mark.parametrize("error", [_cuda, _cpu, MemoryError])
@pytest.mark.parametrize(("most", "slots"), [(1, 1), (2, 2), (3, 2), (5, 4), (8, 8)])
def test_a_pass_that_does_not_fit_is_halved_and_nothing_is_lost(
    most: int, slots: int, error: Callable[[], Exception]
) -> None:
    jobs = _jobs(11)
    alone = {job: Engine(_wrapped(_Narrow(99, error))).attack(job).levels.tobytes() for job in jobs}
    engine = Engine(_wrapped(_Narrow(most, error)), batch_size=8)
    steps: list[StepReport] = []
    results = run_all(engine, jobs, steps.append)
    assert len(results) == len(jobs)
    assert _levels(results) == alone
    assert engine.slots == slots
    for result in results:
        seen = [report.step for report in steps if report.job is result.job]
        assert seen == list(range(len(seen)))
        assert result.gradients == len(seen)


@pytest.mark.parametrize("judges", [True, False])
def test_photos_that_no_memory_has_room_for_fail_one_by_one(judges: bool) -> None:
    jobs = _jobs(5)
    ends = list(Engine(_wrapped(_Narrow(0, _cpu, judges=judges)), batch_size=4).run(jobs))
    assert {end.job for end in ends} == set(jobs)
    for end in ends:
        assert isinstance(end, Failed)
        assert isinstance(end.error, ClassifierError)
        assert "out of memory" in str(end.error)
        assert end.job.photo.source in str(end.error)


def test_an_error_that_is_not_about_memory_ends_the_run() -> None:
    engine = Engine(_wrapped(_Narrow(2, lambda: RuntimeError("shapes"))), batch_size=4)
    with pytest.raises(RuntimeError, match="shapes"):
        list(engine.run(_jobs(5)))


def test_a_photo_that_finds_no_room_beside_others_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def crowded(*arguments: Any) -> AttackState:
        nonlocal made
        made += 1
        if made == 3:
            raise MemoryError
        return AttackState(*arguments)

    monkeypatch.setattr("advimg.engine.engine.AttackState", crowded)
    jobs = _jobs(6)
    engine = Engine(linear_classifier(classes=4), batch_size=4)
    assert {result.job for result in run_all(engine, jobs)} == set(jobs)
    assert engine.slots == 2


def _live_at_each_pass(engine: Engine, jobs: Iterable[Job]) -> list[int]:
    """Return how many photos were live in each pass; all take the same number of steps."""
    passes: list[list[tuple[Job, int]]] = []

    def watch(report: StepReport) -> None:
        if not passes or any(report.job is job or report.step != step for job, step in passes[-1]):
            passes.append([])
        passes[-1].append((report.job, report.step))

    run_all(engine, jobs, watch)
    return [len(live) for live in passes]


def test_live_photos_together_have_no_more_pixels_than_there_is_room_for() -> None:
    jobs = [Job(photo=random_photo(10, 10, seed), target=0, settings=NEVER) for seed in range(6)]
    engine = Engine(linear_classifier(classes=4, scale=0.0001), batch_size=8)
    engine._capacity.pixels = 250
    assert _live_at_each_pass(engine, jobs) == [2] * 18


def test_one_photo_is_always_let_in() -> None:
    jobs = [Job(photo=random_photo(10, 10, seed), target=0, settings=NEVER) for seed in range(3)]
    engine = Engine(linear_classifier(classes=4, scale=0.0001), batch_size=8)
    engine._capacity.pixels = 1
    assert _live_at_each_pass(engine, jobs) == [1] * 18


class _Late:
    """A feed with a job only every so often, unless it is waited for."""

    def __init__(self, jobs: Iterable[Job], every: int) -> None:
        self.jobs: Iterator[Job] = iter(jobs)
        self.every = every
        self.asked = 0
        self.taken = 0
        self.waited_at: list[int] = []

    def take(self, *, wait: bool) -> Job | None:
        self.asked += 1
        if wait:
            self.waited_at.append(self.taken)
        elif self.asked % self.every:
            return None
        job = next(self.jobs, None)
        self.taken += job is not None
        return job


@pytest.mark.parametrize("every", [2, 5, 1000])
def test_a_feed_that_is_not_ready_is_waited_for_only_when_nothing_is_live(every: int) -> None:
    jobs = _jobs(7)
    feed = _Late(jobs, every)
    engine = Engine(linear_classifier(classes=4, scale=0.02), batch_size=3)
    ended: list[Job] = []
    for end in engine.run(feed):
        assert isinstance(end, Result)
        ended.append(end.job)
        # Whenever it waited, all that had been taken had ended.
        assert all(taken <= len(ended) for taken in feed.waited_at)
    assert set(ended) == set(jobs)
    assert len(ended) == len(jobs)
    assert feed.waited_at[-1] == len(jobs)


def test_a_stopped_run_drops_what_is_not_finished() -> None:
    jobs = _jobs(9)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 4

    steps: list[StepReport] = []
    settings = replace(NEVER, steps=50)
    jobs[:2] = _jobs(2, Settings(eps=1, confidence=0, steps=1))
    jobs[2:] = [replace(job, settings=settings) for job in jobs[2:]]
    ends = list(
        Engine(linear_classifier(classes=4, scale=0.0001), batch_size=3).run(jobs, watch=steps.append, stop=stop)
    )
    assert {end.job for end in ends} == set(jobs[:2])
    assert max(report.step for report in steps) <= 4
    assert asked == 5


def test_a_run_that_is_stopped_before_it_begins_takes_no_job() -> None:
    feed = _Late(_jobs(3), 1)
    assert list(Engine(linear_classifier(classes=4)).run(feed, stop=lambda: True)) == []
    assert feed.asked == 0


def _far(classes: int = 4) -> Classifier:
    """A classifier that blows small photos up far enough to refuse a long and thin one."""
    return _wrapped(linear_classifier(classes=classes, scale=0.02).network, classes, resize=256)


@pytest.mark.parametrize("position", [0, 2, 5])
def test_a_photo_too_long_and_thin_does_not_stop_the_others(position: int) -> None:
    jobs = _jobs(5)
    thin = Job(photo=random_photo(3000, 1), target=1, settings=Settings())
    jobs.insert(position, thin)
    ends = list(Engine(_far(), batch_size=3).run(jobs))
    assert {end.job for end in ends} == set(jobs)
    (failed,) = [end for end in ends if isinstance(end, Failed)]
    assert failed.job is thin
    assert isinstance(failed.error, PhotoError)
    assert "3000x1" in str(failed.error)


def test_photos_that_are_refused_keep_no_others_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    slots: WeakSet[AttackState] = WeakSet()
    most = 0

    def counted(*arguments: Any) -> AttackState:
        nonlocal most
        slot = AttackState(*arguments)
        slots.add(slot)
        most = max(most, len(slots))
        return slot

    monkeypatch.setattr("advimg.engine.engine.AttackState", counted)
    thin = [Job(photo=random_photo(3000, 1, seed), target=1, settings=Settings()) for seed in range(12)]
    jobs = [job for pair in zip(thin, _jobs(12), strict=True) for job in pair]
    gc.disable()  # it goes by the number of objects, and a slot is few objects and much memory
    try:
        assert len(list(Engine(_far(), batch_size=2).run(jobs))) == 24
    finally:
        gc.enable()
    # Those that are live, and those that have just ended.
    assert most <= 4


def test_a_refused_photo_is_told_of_before_another_is_waited_for() -> None:
    thin = Job(photo=random_photo(3000, 1), target=1, settings=Settings())
    feed = _Late([thin, *_jobs(1)], 1000)
    ends = Engine(_far()).run(feed)
    assert isinstance(next(ends), Failed)
    assert feed.taken == 1
    assert isinstance(next(ends), Result)


def test_nothing_but_photos_that_cannot_be_attacked() -> None:
    jobs = [Job(photo=random_photo(3000, 1, seed), target=1, settings=Settings()) for seed in range(5)]
    ends = list(Engine(_far(), batch_size=2).run(_Late(jobs, 3)))
    assert [end.job for end in ends] == jobs


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_rules_are_resolved_by_what_the_classifier_sees_in_the_photo(rule: TargetRule) -> None:
    classifier = linear_classifier(classes=30, scale=0.05)
    photos = [random_photo(9, 12, seed) for seed in range(6)]
    jobs = [Job(photo=photo, target=rule, settings=NEVER) for photo in photos]
    targets = {result.job: result.target for result in run_all(Engine(classifier, batch_size=4), jobs)}
    for job in jobs:
        order = classifier.judge(job.photo.levels).probabilities.argsort(descending=True).tolist()
        assert targets[job] != order[0]
        if rule != "random":
            assert targets[job] == order[-1 if rule == "least-likely" else 1]
    again = {result.job: result.target for result in run_all(Engine(classifier, batch_size=1), jobs[::-1])}
    assert again == targets


def test_random_depends_on_the_photo_and_the_seed() -> None:
    classifier = linear_classifier(classes=1000, scale=0.0001)

    def targets(photos: Iterable[Photo], seed: int) -> list[int]:
        settings = Settings(steps=1, seed=seed)
        engine = Engine(classifier)
        return [engine.attack(Job(photo=photo, target="random", settings=settings)).target for photo in photos]

    photos = [random_photo(8, 8, seed) for seed in range(5)]
    assert targets(photos, 0) == targets([replace(photo, source="elsewhere") for photo in photos], 0)
    present = [classifier.judge(photo.levels).top1 for photo in photos]
    assert len({(target - top1) % 1000 for target, top1 in zip(targets(photos, 0), present, strict=True)}) == 5
    assert targets(photos, 0) != targets(photos, 1)


def test_several_jobs_of_one_photo_look_at_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Photo] = []
    honest = Classifier.judge_photo

    def look(self: Classifier, photo: Photo) -> Verdict:
        looked.append(photo)
        return honest(self, photo)

    monkeypatch.setattr(Classifier, "judge_photo", look)
    photos = [random_photo(8, 8, seed) for seed in range(3)]
    jobs = [Job(photo=photo, target=target, settings=NEVER) for photo in photos for target in range(4)]
    results = run_all(Engine(linear_classifier(classes=4), batch_size=5), jobs)
    assert len(results) == 12
    assert looked == photos


def test_neighbours_do_not_change_what_a_failed_pass_had_begun() -> None:
    """Restarts draw random numbers; a pass that is tried again must not draw them twice."""
    jobs = _jobs(5, replace(NEVER, restarts=2, seed=4))
    alone = {job: Engine(_wrapped(_Narrow(99, _cpu))).attack(job).levels.tobytes() for job in jobs}
    assert _levels(run_all(Engine(_wrapped(_Narrow(2, _cpu)), batch_size=5), jobs)) == alone


# Many photos in one process.


def test_many_photos_leave_no_file_open_and_no_job_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()
    if before is None:
        pytest.skip("the system does not tell which files are open")
    photos = save_photos(tmp_path / "photos", 300)
    broken = photos[::5]
    for path in broken:
        path.write_bytes(path.read_bytes()[:300])
    jobs: WeakSet[Job] = WeakSet()
    most_open = most_jobs = 0

    def job(**known: Any) -> Job:
        made = Job(**known)
        jobs.add(made)
        return made

    def ended(stats: BatchStats) -> None:
        nonlocal most_open, most_jobs
        most_open, most_jobs = max(most_open, open_descriptors() or 0), max(most_jobs, len(jobs))

    monkeypatch.setattr("advimg.batch.reader.Job", job)

    # A photo is large: it must not wait for the garbage collector, which goes by the number of objects.
    gc.disable()
    try:
        stats = attack_all(photos, tmp_path / "out", linear_classifier(classes=2, scale=0.5), ended=ended)
    finally:
        gc.enable()
    assert (stats.verified, len(stats.failures)) == (240, 60)
    assert open_descriptors() == before
    # The journal, its list and lock, and what the threads are reading and writing.
    assert most_open <= before + 20
    # Those that are live, read ahead, or being written.
    assert 0 < most_jobs < 45
