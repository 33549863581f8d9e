"""A place for an actor in a Ray cluster, and the actor that has it at present."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from advimg import __version__
from advimg.batches.exchange import State
from advimg.batches.ray_actor import PipelineActor
from advimg.batches.ray_cluster import Bundle, is_alive
from advimg.errors import AdvimgError, DeviceError
from advimg.storage.url import Place


class Loss(NamedTuple):
    """Why an actor was lost.

    Attributes:
        error: in one line.
        suspect: whether one of its photos may be why.
        final: whether another actor would be lost in the same way.
    """

    error: DeviceError
    suspect: bool
    final: bool = False


_own: set[int] = set()
"""The processes of the actors in this command's own cluster."""
_GONE = 2.0
"""Seconds for such a process to end."""


def end_own_actors() -> None:
    """End the actors of this command's own cluster, with the programs that they run: the command ends at once."""
    for process in tuple(_own):
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGTERM)
    given_up = time.monotonic() + _GONE
    while any(map(_is_there, tuple(_own))) and time.monotonic() < given_up:
        time.sleep(0.02)


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


@dataclass(eq=False)
class Slot:
    """A place for an actor, and the actor that has it at present.

    Attributes:
        place: where, and what it asks the cluster for.
        task: of its actors, pickled.
        alone: whether the cluster has this machine only, and ends with this command.
        handle: Ray's of the actor; None before it is begun, and between two.
        call: the exchange that is under way.
        answers: for the next exchange.
        wanted: how many photos the actor has room for.
        node, host, process: where it is; None until it has begun.
        state: of the actor.
        losses: actors that were lost in a row, without a record in between.
    """

    place: Bundle
    task: bytes
    alone: bool = False
    handle: Any = None
    call: Any = None
    answers: dict[int, set[Place] | AdvimgError] = field(default_factory=dict)
    wanted: int = 0
    node: str | None = None
    host: str | None = None
    process: int | None = None
    state: State = "loading"
    losses: int = 0

    @property
    def name(self) -> str:
        """What a person knows it by."""
        return f"the actor on {self.place.device}" + (f" of {self.host}" if self.host else "")

    def begin(self) -> None:
        """Begin an actor; Ray waits until there is room for it."""
        import ray

        variables = {"RAY_USAGE_STATS_ENABLED": "0"}
        if self.place.threads is not None:  # before torch is imported
            variables |= {"OMP_NUM_THREADS": str(self.place.threads), "OMP_WAIT_POLICY": "passive"}
        actor = ray.remote(PipelineActor).options(
            **self.place.resources,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": variables},
        )
        self.handle = actor.remote(__version__, self.task)

    def runs_as(self, process: int) -> None:
        """Take note of the actor's process."""
        self.process = process
        if self.alone:
            _own.add(process)

    def end(self) -> None:
        """End the actor at once, if there is one."""
        import ray

        if self.process is not None:
            _own.discard(self.process)
        if self.handle is not None:
            ray.kill(self.handle)
        self.handle = self.call = self.node = self.host = self.process = None
        self.answers, self.wanted, self.state = {}, 0, "loading"

    def loss(self, error: Exception, *, paused: bool = False) -> Loss:
        """Tell from Ray's error why the actor was lost.

        Args:
            error: of Ray.
            paused: whether this process has called no actor for so long that they ended by themselves.
        """
        from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError

        text = str(error)
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), type(error).__name__)
        if isinstance(error, OutOfMemoryError) or "OutOfMemory" in text:
            return Loss(DeviceError(f"{self.name} was ended because the memory of its machine ran out"), suspect=True)
        if "failed to import" in text or "creation task" in text:
            message = f"no actor can begin on a node of the cluster: {last}; each needs advimg {__version__}"
            return Loss(DeviceError(message), suspect=False, final=True)
        if self.node is None:
            return Loss(DeviceError(f"{self.name} did not begin: {last}"), suspect=False)
        if paused:
            return Loss(DeviceError(f"{self.name} has ended, as it was not called for long"), suspect=False)
        if not is_alive(self.node):
            if self.alone:
                return Loss(DeviceError("Ray's processes on this machine have ended"), suspect=False, final=True)
            return Loss(DeviceError(f"the node {self.host} was lost"), suspect=False)
        if isinstance(error, ActorUnavailableError):
            return Loss(DeviceError(f"{self.name} no longer answers"), suspect=False)
        if isinstance(error, ActorDiedError):
            return Loss(DeviceError(f"{self.name} was killed, as the system does when memory runs out"), suspect=True)
        return Loss(DeviceError(f"{self.name} was lost: {last}"), suspect=True)
