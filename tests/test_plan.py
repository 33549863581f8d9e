"""Which attacks a batch makes, and how their files are named."""

from collections.abc import Iterable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from advimg.batches.plan import Files, Item, Key, each_target, plan_items
from advimg.labels import Labels
from advimg.settings import TargetRule

LABELS = Labels(["pelican", "German shepherd", "crane", "crane", "bow, tie"])
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
        ("perturbation", "dog_pelican_perturbation.png"),
        ("figure", "dog_pelican_figure.png"),
    ]
    assert names(keys_of("a.b.jpg", target=1)) == ["a.b_german_shepherd.png"]
    assert names(each_target([ROOT / "a.jpg"], [2, 3, "least-likely"], 10)) == [
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
    labels = Labels(["pelican", "perturbation", "figure"])
    items = plan_items(
        each_target([ROOT / "dog.jpg", ROOT / "dog_pelican.jpg"], [0, 1, 2], 10), FILES, labels, recorded={}
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
