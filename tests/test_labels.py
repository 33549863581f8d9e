"""Class names as people write them."""

import pytest
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from advimg.errors import UsageError
from advimg.labels import Labels, imagenet_labels

IMAGENET = imagenet_labels()


def test_the_names_are_torchvision_s() -> None:
    categories = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    assert IMAGENET.names == tuple(categories)


@given(st.integers(0, 999))
def test_every_class_is_found_by_name_index_and_slug(index: int) -> None:
    assert IMAGENET.find(IMAGENET[index]) == index
    assert IMAGENET.find(index) == IMAGENET.find(str(index)) == index
    if not IMAGENET.slug(index).endswith(str(index)):
        assert IMAGENET.find(IMAGENET.slug(index)) == index


@pytest.mark.parametrize("name", ["german shepherd", "GERMAN_SHEPHERD", "German-Shepherd", " German  shepherd "])
def test_case_and_separators_do_not_matter(name: str) -> None:
    assert IMAGENET.find(name) == 235


def test_an_exact_name_wins_over_one_of_other_case() -> None:
    assert IMAGENET.find("Cardigan") == 264
    assert IMAGENET.find("cardigan") == 474
    with pytest.raises(UsageError, match=r"ambiguous; give its index: 264 \(Cardigan\) or 474 \(cardigan\)"):
        IMAGENET.find("CARDIGAN")


def test_two_classes_of_one_name_need_the_index() -> None:
    labels = Labels(["crane", "dog", "crane"])
    with pytest.raises(UsageError, match=r"0 \(crane\) or 2 \(crane\)"):
        labels.find("crane")
    assert labels.find("2") == 2
    assert labels.slug(0) == "crane_0"
    assert labels.slug(1) == "dog"


@pytest.mark.parametrize(
    ("name", "near"), [("pelicann", "pelican"), ("sheperd", "shepherd"), ("zzzz", "advimg labels")]
)
def test_unknown_classes_name_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError, match="unknown class") as caught:
        IMAGENET.find(name)
    assert near in str(caught.value)


@pytest.mark.parametrize("index", [-1, 1000, "1000", "-5"])
def test_indices_out_of_range_are_refused(index: int | str) -> None:
    with pytest.raises(UsageError, match="0 to 999"):
        IMAGENET.find(index)


def test_labels_of_digits_stay_usable() -> None:
    digits = Labels(str(digit) for digit in range(9, -1, -1))
    assert digits.find("9") == 0
    assert digits.find(9) == 9


def test_search_wants_every_word() -> None:
    found = [IMAGENET[index] for index in IMAGENET.search("german SHEP")]
    assert found == ["German shepherd"]
    assert len(IMAGENET.search()) == 1000
    assert IMAGENET.search("zzzz") == []


@pytest.mark.parametrize(("name", "slug"), [("jack-o'-lantern", "jack_o_lantern"), ("../etc", "etc"), ("浴衣", "浴衣")])
def test_slugs_are_safe_in_file_names(name: str, slug: str) -> None:
    assert Labels([name, "other"]).slug(0) == slug


def test_a_name_without_letters_gets_a_slug_from_its_index() -> None:
    assert Labels(["?", "!"]).slug(1) == "class_1"
