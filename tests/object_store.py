"""An object store on this machine that speaks S3 over HTTP: OpenStack Swift, or moto where Swift is not installed.

Both are processes of their own at ports of 127.0.0.1, and end with the test process, even one that is killed.
They differ:

* Swift is a store in earnest. It checks signatures, and answers 403 to a wrong secret. It is also an old one (2.30):
  it refuses conditional creation (501) and cannot delete many objects in one request.
* moto keeps objects in memory, creates conditionally, and believes everyone who signs.
"""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import s3fs

_HOST = "127.0.0.1"
_UP_WITHIN = 60.0  # seconds; it takes one or two

# tempauth calls a user ACCOUNT:USER, and so does s3api its access key.
_KEY = "test:tester"
_SECRET = "testing"


@dataclass(frozen=True)
class ObjectStore:
    """A store that runs: where it is and who may use it."""

    server: Literal["swift", "moto"]
    endpoint: str
    key: str = _KEY
    secret: str = _SECRET

    def environment(self) -> Mapping[str, str]:
        """Return the environment variables by which programs of AWS, s3fs among them, find this store."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            # The settings of whoever runs the tests, and the proxy of their network, are left out.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": _HOST,
            "no_proxy": _HOST,
        }

    def file_system(self, **options: object) -> s3fs.S3FileSystem:
        """Return a new file system of this store, which shares nothing with others and remembers no listing."""
        settings = {
            "endpoint_url": self.endpoint,
            "key": self.key,
            "secret": self.secret,
            "use_listings_cache": False,
            "skip_instance_cache": True,
        }
        return s3fs.S3FileSystem(**{**settings, **options})

    @cached_property
    def files(self) -> s3fs.S3FileSystem:
        """One file system of this store, for a look at what is in it; to make one takes a quarter of a second."""
        return self.file_system()

    def new_bucket(self) -> str:
        """Create an empty bucket and return its name."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.files.mkdir(name)
        return name


def swift_can_run(folder: Path) -> bool:
    """Return whether Swift is installed, and whether a folder's file system has the extended attributes it needs."""
    if shutil.which("swift-proxy-server") is None:
        return False
    try:
        os.setxattr(folder, "user.swift.test", b"1")
    except OSError:
        return False
    return True


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """Run Swift where it can run, moto otherwise.

    Args:
        folder: An empty folder for everything that the server writes.

    Yields:
        The store, ready for requests.
    """
    with (swift if swift_can_run(folder) else moto)(folder) as store:
        yield store


@contextmanager
def moto(folder: Path) -> Iterator[ObjectStore]:
    """Run moto's server; see :func:`object_store`."""
    with ExitStack() as stack:
        (port,) = stack.enter_context(_ports(1))
        command = (sys.executable, "-m", "moto.server", "-H", _HOST, "-p", str(port))
        stack.enter_context(_running({port: command}, folder, os.environ))
        yield ObjectStore("moto", f"http://{_HOST}:{port}")


@contextmanager
def swift(folder: Path) -> Iterator[ObjectStore]:
    """Run the four servers of Swift, with one device and without the services that repair and replicate.

    What they write lies in the folder, except that they read the package's ``/etc/swift/swift.conf``, whose place is
    fixed in Swift. See :func:`object_store`.
    """
    (folder / "devices" / "disk").mkdir(parents=True)
    # The servers run in the system's Python, and look for nothing where this one looks.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    kinds = (*_RINGS, "proxy")
    with ExitStack() as stack:
        ports = stack.enter_context(_ports(len(kinds)))
        rings = [f"{kind}:{port}" for kind, port in zip(_RINGS, ports, strict=False)]
        subprocess.run([_SYSTEM_PYTHON, "-c", _MAKE_RINGS, folder, *rings], env=environment, check=True)
        commands = {}
        for kind, port in zip(kinds, ports, strict=True):
            conf = folder / f"{kind}.conf"
            template = _PROXY_CONF if kind == "proxy" else _STORAGE_CONF
            conf.write_text(template.format(kind=kind, port=port, folder=folder, user=getpass.getuser()))
            commands[port] = (f"swift-{kind}-server", str(conf), "--verbose")
        stack.enter_context(_running(commands, folder, environment))
        yield ObjectStore("swift", f"http://{_HOST}:{ports[-1]}")


@contextmanager
def _ports(count: int) -> Iterator[Sequence[int]]:
    """Reserve free ports: nobody takes a port by chance whose socket is bound, and a server may still listen there."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for bound in sockets:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((_HOST, 0))
        yield [bound.getsockname()[1] for bound in sockets]


@contextmanager
def _running(commands: Mapping[int, Sequence[str]], folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Run servers until the end of the block, from when each listens at its port.

    Raises:
        RuntimeError: If one ends or does not listen in time. The message has what it wrote.
    """
    # The kernel ends a server whose starter is gone, for a test process that is killed runs nothing at its end.
    setpriv = shutil.which("setpriv")
    tied = (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()
    servers: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for port, command in commands.items():
            with (folder / f"{port}.log").open("wb") as log:
                servers[port] = subprocess.Popen(
                    [*tied, *command], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
        deadline = time.monotonic() + _UP_WITHIN
        for port, server in servers.items():
            while not _listens(port):
                if server.poll() is not None or time.monotonic() > deadline:
                    said = (folder / f"{port}.log").read_text(errors="replace")
                    raise RuntimeError(f"{' '.join(commands[port])} did not start:\n{said}")
                time.sleep(0.02)
        yield
    finally:
        for server in servers.values():
            server.kill()
        for server in servers.values():
            server.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection((_HOST, port)).close()
    except OSError:
        return False
    return True


_RINGS = ("account", "container", "object")

# Debian installs Swift for the system's Python. A ring says which device holds what; the only one holds all.
_SYSTEM_PYTHON = "/usr/bin/python3"
_MAKE_RINGS = """
import sys
from swift.common.ring import RingBuilder

folder, *rings = sys.argv[1:]
for kind, port in (ring.split(":") for ring in rings):
    builder = RingBuilder(part_power=1, replicas=1, min_part_hours=0)
    device = {"id": 0, "region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "disk", "weight": 1}
    builder.add_dev(device)
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{kind}.ring.gz")
"""

_STORAGE_CONF = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
fallocate_reserve = 0
user = {user}
log_address = {folder}/no-syslog

[pipeline:main]
pipeline = {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
"""

# proxy-logging stands first because it gives the length of every answer: without it an error to HEAD ends in a chunk,
# which the client takes for the start of the next answer. tempauth asks for a cache; nothing listens at port 1, which
# makes one that never has an answer.
_PROXY_CONF = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
user = {user}
log_address = {folder}/no-syslog

[pipeline:main]
pipeline = catch_errors proxy-logging cache listing_formats s3api tempauth copy slo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:proxy-logging]
use = egg:swift#proxy_logging

[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1

[filter:listing_formats]
use = egg:swift#listing_formats

[filter:s3api]
use = egg:swift#s3api

[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin

[filter:copy]
use = egg:swift#copy

[filter:slo]
use = egg:swift#slo
"""
