"""What is in a store, looked up many times and asked for once: a request for each object would take hours."""

from collections.abc import Iterable

from advimg.storage import stores
from advimg.storage.tars import SUFFIX
from advimg.storage.url import Place, Url


class Listing:
    """The objects of folders as they were when the first was looked up.

    Args:
        folders: those that are no URLs are passed over.
    """

    def __init__(self, folders: Iterable[Place]) -> None:
        urls = dict.fromkeys(folder for folder in folders if isinstance(folder, Url))
        self._folders = [url for url in urls if not any(url != other and url.is_relative_to(other) for other in urls)]
        self._stamps: dict[str, str] | None = None

    def stamp(self, url: Url) -> str | None:
        """Return what is another once an object's bytes are; None if there is no such object.

        Raises:
            DiskError: the store does not answer.
        """
        with stores.errors_as(f"cannot read {url}"):
            if not any(url.is_relative_to(folder) for folder in self._folders):
                alone = stores.find(url)
                return alone.stamp if alone else None
            if self._stamps is None:
                self._stamps = {
                    str(each): found.stamp for folder in self._folders for each, found in stores.listed(folder)
                }
            found = self._stamps.get(str(url))
            if found is None and SUFFIX in str(url).lower():  # that of a member is its archive's
                archives = (each for each in url.parents if each.suffix.lower() == SUFFIX)
                found = next((stamp for each in archives if (stamp := self._stamps.get(str(each)))), None)
            return found
