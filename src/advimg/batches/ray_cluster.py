"""Ray's cluster: one that runs already, or one of this process's own on this machine, and the actors it has room for.

Ray is imported on first use; everything else of advimg runs without it.
"""

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from advimg.classifiers.device import find_device
from advimg.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from types import ModuleType

_REACH, _CONNECT = 5.0, 25.0
"""Seconds to open a connection to an address, and to join the cluster there."""
_CORES = 4
"""Of an actor on a CPU where nobody says how many actors there are: more threads wait for each other more than they
help, and each actor holds the networks once more."""
_STORE = 80 << 20
"""Bytes of the object store of a cluster of our own, about the least that Ray takes: photos and files do not go through
it."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A place for an actor.

    Attributes:
        device: the name of its device there.
        threads: of an actor on a CPU; None for torch's default.
        resources: what it asks the cluster for: ``num_cpus`` and ``num_gpus``.
    """

    device: str
    threads: int | None
    resources: dict[str, float]


def address_of(on: str) -> str | None:
    """Return the address of the cluster that ``--on`` names; None for one of this process's own, on this machine.

    Args:
        on: "ray", "ray://HOST:PORT" for Ray's client, or "ray:ADDRESS" with an address as Ray has them: "auto",
            "local", "HOST:PORT". The first is the cluster of the variable ``RAY_ADDRESS``, if that is set.

    Raises:
        UsageError: it is none of these.
    """
    if on.startswith("ray://"):
        address = on
    elif on == "ray":
        address = os.environ.get("RAY_ADDRESS", "local")
    elif on.startswith("ray:") and on != "ray:":
        address = on.removeprefix("ray:")
    else:
        raise UsageError(f"--on {on!r}: give ray, ray://HOST:10001, or ray:HOST:PORT")
    return None if address == "local" else address


def own_places(devices: Sequence[str]) -> list[Bundle]:
    """Return the places of a cluster of our own: one on each device.

    Args:
        devices: their names; "auto" alone is each GPU of this machine, or the CPU in parts of a few cores.

    Raises:
        UsageError: no such device.
        ClassifierError: this machine has no such device.
    """
    cores = torch.get_num_threads()
    if tuple(devices) == ("auto",):
        kind = find_device().type
        count = {"cuda": torch.cuda.device_count(), "cpu": max(1, cores // _CORES)}.get(kind, 1)
        devices = [f"cuda:{number}" for number in range(count)] if kind == "cuda" else [kind] * count
    # Actors on the CPU share its cores: threads that wait for each other make a pass many times as slow.
    sharing = sum(find_device(name).type == "cpu" for name in devices)
    threads = max(1, cores // sharing) if sharing else None
    return [Bundle(name, threads, {"num_cpus": 1}) for name in devices]


def places_on(devices: Sequence[str]) -> list[Bundle]:
    """Return the places of the cluster that this process has joined.

    Args:
        devices: "auto" for each GPU of the cluster, or the CPUs in parts of a few cores; else "cpu" or "cuda", once for
            each actor, or once for as many as there are.

    Raises:
        UsageError: the devices are of other names.
        DeviceError: the cluster does not have as many.
    """
    nodes = [node["Resources"] for node in _ray().nodes() if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    kinds = set(devices)
    if len(kinds) > 1 or not kinds <= {"auto", "cpu", "cuda"}:
        raise UsageError(f"--device {','.join(devices)}: the cluster assigns devices; give cpu or cuda, once an actor")
    (kind,) = kinds
    wanted = len(devices) if len(devices) > 1 else None
    if kind == "cuda" or (kind == "auto" and gpus):
        if gpus < (wanted or 1):
            raise DeviceError(f"--device {','.join(devices)}: the cluster has {gpus or 'no'} GPUs")
        return [Bundle("cuda", None, {"num_cpus": 0, "num_gpus": 1})] * (wanted or gpus)
    if sum(cpus) < (wanted or 1):
        raise DeviceError(f"--device {','.join(devices)}: the cluster has {sum(cpus) or 'no'} CPUs")
    cores = min(_CORES, max(cpus))
    if wanted is not None:
        cores = next(size for size in range(max(cpus), 0, -1) if sum(each // size for each in cpus) >= wanted)
    count = wanted or sum(each // cores for each in cpus)
    return [Bundle("cpu", cores, {"num_cpus": cores})] * count


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """Join a cluster that runs already, and leave it at the end of the context.

    Raises:
        DeviceError: Ray is not installed, nobody answers at the address, or the cluster cannot be used from here.
    """
    ray = _ray()
    if ray.is_initialized():  # by the program that calls advimg
        yield
        return
    _check_reachable(address)
    with _silent():
        try:
            _joined_in_time(ray, address)
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def own_cluster(actors: int) -> Iterator[None]:
    """Start a cluster on this machine with room for so many actors; at the end of the context nothing is left of it.

    Raises:
        DeviceError: Ray is not installed, or does not start.
    """
    ray = _ray()
    if ray.is_initialized():
        raise DeviceError("this program has joined a Ray cluster; leave it, or attack on it with on='ray:auto'")
    folder: str | None = None
    with _silent():
        try:
            folder = _started(ray, actors)
            yield
        finally:
            ray.shutdown()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)  # its logs


def _started(ray: "ModuleType", actors: int) -> str:
    """Start a cluster on this machine, and return the folder of its logs.

    Raises:
        DeviceError: it does not start.
    """
    try:
        with _own_sigterm():
            context = ray.init(
                address="local",
                num_cpus=actors,
                num_gpus=0,  # actors are told which GPU is theirs
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                object_store_memory=_STORE,
            )
    except (RuntimeError, OSError, ValueError) as error:
        raise DeviceError(f"Ray does not start on this machine: {_one_line(error)}") from error
    return str(context.address_info["session_dir"])


def is_alive(node: str) -> bool:
    """Tell whether a node is still part of the cluster."""
    return any(each["NodeID"] == node and each["Alive"] for each in _ray().nodes())


def node_of_this_process() -> str:
    """Return the cluster's name of the node that an actor runs on."""
    name: str = _ray().get_runtime_context().get_node_id()
    return name


def _ray() -> "ModuleType":
    # Read when Ray is imported, here and in the processes of a cluster of our own. No statistics are sent anywhere, and
    # an actor that asks for no GPU sees all of them.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise DeviceError("several devices, and --on ray, need Ray: pip install 'advimg-cli[ray]'") from None
    return ray


def _check_reachable(address: str) -> None:
    """Find out at once whether somebody listens at an address; Ray would try for a minute.

    Raises:
        DeviceError: nobody does.
        UsageError: it is none.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        given = address if address.startswith("ray://") else f"ray:{address}"
        raise UsageError(f"--on {given}: this is no address; give ray://HOST:10001, or ray:HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DeviceError(f"no Ray cluster answers at {address}: {reason}") from error


def _joined_in_time(ray: "ModuleType", address: str) -> None:
    """Join a cluster, in a thread, so that one that never answers is left alone after a while.

    Raises:
        DeviceError: it does not answer in time, or cannot be used from here.
    """
    failed: list[BaseException] = []
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}

    def join() -> None:
        try:
            ray.init(address, **options)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=join, name="join", daemon=True)
    with _stderr_closed():
        thread.start()
        thread.join(_CONNECT)
    if thread.is_alive():
        raise DeviceError(
            f"what answers at {address} is no Ray cluster, or does not let this process in within {_CONNECT:g} s; one "
            "with tokens needs RAY_AUTH_MODE=token here"
        )
    for error in failed:
        if isinstance(error, ImportError):
            raise DeviceError(f"--on {address} needs Ray's client: pip install 'advimg-cli[ray]'") from error
        hint = "; one with tokens needs RAY_AUTH_MODE=token here" if isinstance(error, ConnectionError) else ""
        raise DeviceError(f"the Ray cluster at {address} cannot be used: {_one_line(error)}{hint}") from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep Ray from printing what its nodes say: it does so on stdout, whatever it is told about logs."""
    from ray._private import worker

    said = getattr(worker, "print_to_stdstream", None)
    if said is None:  # in another version of Ray, which then may print
        yield
        return
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = said


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    """Keep what Ray's C++ has to say from stderr; what matters of it is in Ray's error."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM while Ray sets one of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"
