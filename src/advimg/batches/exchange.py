"""What the driver, the process with the plan and the journal, and its actors tell each other, several things at once.

Nothing here imports torch, so that an actor says at once that it has begun.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from advimg.errors import AdvimgError
from advimg.storage.url import Place

if TYPE_CHECKING:
    from advimg.batches.options import Options
    from advimg.batches.plan import Files, Item
    from advimg.classifiers.program import Program
    from advimg.classifiers.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The task of an actor.

    Attributes:
        device: the name of its device.
        threads: the number of its threads on a CPU; None for torch's default.
        attacked: the classifiers to attack.
        check_on: those that are not attacked, whose predictions are recorded.
        files: the kinds of files to write.
        options: of all attacks.
        needed: files and objects that the actor has to see, each with what it is for a person.
        tag: tells its archives from those of other actors.
    """

    device: str
    threads: int | None
    attacked: "tuple[ModelSpec, ...]"
    check_on: "tuple[ModelSpec | Program, ...]"
    files: "Files"
    options: "Options"
    needed: Mapping[Place, str]
    tag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """From the driver to an actor.

    Attributes:
        photos: attacks to make, each a list of those on one photo.
        answers: to each :attr:`Report.begins`, by its number: the files that may be replaced, or an error.
        stop: whether to write what is complete, and drop the rest.
        patience: the most seconds to wait for something to report.
    """

    photos: "list[list[Item]]" = field(default_factory=list)
    answers: dict[int, set[Place] | AdvimgError] = field(default_factory=dict)
    stop: bool = False
    patience: float


State = Literal["loading", "ready", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """From an actor to the driver.

    Attributes:
        node: the cluster's name of the actor's node.
        host: the name of its machine, for a person.
        process: its number there.
        state: whether it loads its classifiers, attacks, or has ended: by :attr:`Orders.stop`, or by an error.
        begins: the SHA-256 of files that are about to be written, by a number for the answer.
        records: of attacks whose files are in place.
        wanted: how many photos it has room for.
        error: why it has ended, if not because it was told to.
    """

    node: str
    host: str
    process: int
    state: State
    begins: dict[int, dict[Place, str]]
    records: list[dict[str, Any]]
    wanted: int
    error: AdvimgError | None
