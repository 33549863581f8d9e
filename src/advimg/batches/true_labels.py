"""The true classes of photos: the names of their folders, or a table."""

from collections.abc import Collection, Mapping

from advimg.batches.table import open_table, read_table
from advimg.errors import UsageError
from advimg.labels import Labels
from advimg.storage.url import Place, place
from advimg.target_names import find_class

FOLDERS = "folders"
"""What stands for a table where the folder of each photo is named after its class: ``photos/tabby/1.jpg``."""


def read_true_labels(
    given: str | Place, photos: Collection[Place], labels: Labels, others: Mapping[str, Labels] | None = None
) -> dict[Place, int]:
    """Return the true class of each photo, as the first classifier counts.

    Args:
        given: ``folders``, or the path of a CSV table with the header ``photo,label``, whose paths are relative to the
            current folder. A table need not name every photo, and may name others.
        photos: absolute paths.
        labels: of the first classifier.
        others: of other classifiers, by their names.

    Raises:
        PhotoError: the table cannot be read.
        UsageError: one of the classifiers has no such class (the message lists the nearest), the table is none, names a
            photo with two labels, or names none of the photos.
    """
    if str(given) == FOLDERS:
        return _of_folders(photos, labels, others)
    classes: dict[Place, int] = {}

    def enter(cells: Mapping[str, str]) -> list[Place]:
        path, index = place(cells["photo"]), find_class(cells["label"], labels, others)
        if classes.setdefault(path, index) != index:
            raise UsageError(f"{cells['photo']} has another label above")
        return [path]

    read_table(open_table(given), enter, name=str(given), columns=("photo", "label"))
    known = {photo: classes[photo] for photo in photos if photo in classes}
    if not known:
        raise UsageError(f"{given} names none of the photos; its paths are relative to the current folder")
    return known


def _of_folders(photos: Collection[Place], labels: Labels, others: Mapping[str, Labels] | None) -> dict[Place, int]:
    classes: dict[Place, int] = {}
    for folder in dict.fromkeys(photo.parent for photo in photos):
        try:
            classes[folder] = find_class(folder.name, labels, others)
        except UsageError as error:
            raise UsageError(f"the folder {folder} is to be named after a class: {error}") from None
    return {photo: classes[photo.parent] for photo in photos}
