"""A picture's file that a record names by its hash."""

import hashlib
from functools import cached_property

from advimg.errors import PhotoError
from advimg.images.decode import decode_photo
from advimg.images.photo import Photo
from advimg.storage.places import is_there, read_bytes
from advimg.storage.url import place_of


class HashedFile:
    """A picture's file, decoded once, when that is needed, and only if its bytes are those of the record.

    Args:
        path: of the file.
        sha256: of its bytes, as the record has it.
        called: what messages call it.
    """

    def __init__(self, path: str, sha256: str, called: str) -> None:
        self._path = place_of(path)
        self._called = called
        self.sha256 = sha256

    @property
    def is_there(self) -> bool:
        """Whether a file is at its path, whatever it holds."""
        return is_there(self._path)

    @cached_property
    def photo(self) -> Photo:
        """What it shows.

        Raises:
            PhotoError: it is gone, another, or broken.
        """
        try:
            data = read_bytes(self._path)
        except (OSError, ValueError):  # ValueError: a NUL in the name
            raise PhotoError(self.gone) from None
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise PhotoError(f"The {self._called} has been changed since, so it is not shown.")
        try:
            return decode_photo(data, source=f"the {self._called}")
        except PhotoError as error:
            raise PhotoError(f"The {self._called} cannot be shown: {error}.") from error

    @property
    def gone(self) -> str:
        """What is said where it is not there, in a sentence."""
        return f"The {self._called} is no longer where it was."
