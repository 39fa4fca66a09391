"""Hold the lease of a store of answers, so that two runs never pay for the same requests.

    ROOT/TABLE/lease.json    which run asks, and since when; empty when none does

A run takes the lease by compare-and-swap, renews it while it asks, and empties it at its end. No two clocks are compared:
another run takes the lease over when it has seen it unchanged for lake.lease_seconds, and its holder stops by its own clock
before that. The lease of a process of this machine that has ended is taken over at once.
"""

import dataclasses
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError

from raft_spark import config
from raft_spark.common import ids
from raft_spark.common.background import in_background
from raft_spark.errors import InputError, StoppedError
from raft_spark.lake import tables
from raft_spark.lake.filesystem import Storage

LOG = logging.getLogger(__name__)
PATH = "lease.json"
RENEWALS = 6  # in the time after which a lease that is not renewed may be taken over
VALID_SHARE = 0.75  # of that time, after which its holder stops
LOOK_EVERY = 0.5  # seconds, of a run that waits
STORE_ERRORS = (OSError, InputError, BotoCoreError)


@dataclass(frozen=True, slots=True)
class Holder:
    """What lease.json says. `process` identifies a process of a machine that has /proc, else it is ""."""

    token: str
    host: str
    pid: int
    process: str
    since: str
    seconds: float
    renewals: int = 0

    def to_json(self) -> bytes:
        """Return the content of lease.json."""
        return json.dumps(dataclasses.asdict(self), indent=1).encode()


class Lease:
    """The lease while this process holds it; a background thread renews it."""

    def __init__(self, storage: Storage, holder: Holder, taken: float) -> None:
        self._storage, self._holder, self._problem = storage, holder, ""
        self._valid_until = taken + VALID_SHARE * holder.seconds

    @property
    def token(self) -> str:
        """Return the random name of this lease."""
        return self._holder.token

    def problem(self) -> str:
        """Return why the run must send nothing more, "" while the lease is valid. A lease that was lost stays lost."""
        if not self._problem and _clock() > self._valid_until:
            self._problem = (
                f"the lease {self._storage.root}/{PATH} was not renewed for {VALID_SHARE * self._holder.seconds:g} s, "
                "because this process was paused or could not write there"
            )
        return self._problem

    def require(self) -> None:
        """Raise StoppedError when the lease is lost."""
        if problem := self.problem():
            msg = (
                f"{problem}; nothing was published, the answers that came are stored, and a rerun asks only the others"
            )
            raise StoppedError(msg)

    def renew(self) -> None:
        """Write the lease again; a write that fails is logged, and one that another run prevents ends the lease."""
        begin, before = _clock(), self._holder.to_json()
        renewed = replace(self._holder, renewals=self._holder.renewals + 1)
        try:
            if not self._storage.compare_and_swap(PATH, renewed.to_json(), before):
                self._problem = self._problem or f"this run lost its lease: {_describe(self._storage)}"
                return
        except STORE_ERRORS as error:
            LOG.warning("the lease %s/%s could not be renewed: %s", self._storage.root, PATH, error)
            return
        self._holder, self._valid_until = renewed, begin + VALID_SHARE * renewed.seconds

    def release(self) -> None:
        """Empty the lease if it is still this run's."""
        try:
            self._storage.compare_and_swap(PATH, b"", self._holder.to_json())
        except STORE_ERRORS as error:
            LOG.warning("the lease %s/%s could not be given back: %s", self._storage.root, PATH, error)


@contextmanager
def hold(lake: config.Lake, table: str) -> Iterator[Lease]:
    """Hold the lease of a table's store of answers while the block runs.

    Raises StoppedError that names the other run if one holds it for more than lake.lease_wait_minutes.
    """
    storage = tables.storage(lake, table)
    try:
        lease = _take(storage, lake)
    except STORE_ERRORS as error:
        msg = f"the lease {storage.root}/{PATH} cannot be taken: {error}; nothing was sent"
        raise InputError(msg) from error
    try:
        with in_background(partial(_renew, lease, lake.lease_seconds / RENEWALS)):
            yield lease
    finally:
        lease.release()


def is_held(storage: Storage, token: str) -> bool:
    """Return whether the lease of this name is still the current one: for a task that cannot ask its driver."""
    return _parse(storage.read(PATH)).get("token") == token


def is_present(storage: Storage) -> bool:
    """Return False when a local folder lost its lease.json, so that nothing is written to a folder that was removed."""
    return not storage.is_local or Path(storage.path(PATH)).is_file()


def _renew(lease: Lease, pause: float, over: threading.Event) -> None:
    while not over.wait(pause) and not lease.problem():
        lease.renew()


def _take(storage: Storage, lake: config.Lake) -> Lease:
    holder = Holder(uuid.uuid4().hex, platform.node(), os.getpid(), _process(), ids.now(), lake.lease_seconds)
    end = _clock() + lake.lease_wait_minutes * 60
    seen, seen_at = b"", _clock()
    while True:
        now, begin = storage.read(PATH), _clock()
        if _is_free(now, seen, begin - seen_at, lake.lease_seconds):
            if storage.compare_and_swap(PATH, holder.to_json(), now):
                return Lease(storage, holder, begin)
        elif now != seen:
            if seen and begin >= end:
                msg = (
                    f"{_describe(storage)}; run again when it has ended, or let this run wait: lake.lease_wait_minutes"
                )
                raise StoppedError(msg)
            if not seen:
                LOG.warning("%s; looking whether it still runs", _describe(storage))
            seen, seen_at = now or b"", begin
        time.sleep(LOOK_EVERY)


def _is_free(now: bytes | None, seen: bytes, seconds: float, default: float) -> bool:
    """Return whether a lease may be taken: none, of a process that has ended, or `seen` unchanged for long enough."""
    holder = _parse(now)
    is_old = now == seen and seconds >= float(holder.get("seconds", default))
    return not now or is_old or _has_ended(str(holder.get("process", "")))


def _parse(text: bytes | None) -> dict[str, Any]:
    """Return the fields of lease.json; none if it is empty or damaged."""
    try:
        found = json.loads(text or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _describe(storage: Storage) -> str:
    text = storage.read(PATH)
    if text is None:
        return f"{storage.root}/{PATH} was removed"
    found = _parse(text)
    if not found:
        return f"another run has ended the lease {storage.root}/{PATH}"
    who = f"process {found.get('pid')} on {found.get('host')}"
    return f"another run, {who}, asks for the answers of {storage.root} since {found.get('since')}"


def _clock() -> float:
    """Return seconds that also pass while the machine sleeps, where the system counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _process() -> str:
    """Return this boot of the machine, the namespace of process ids, the process id and its start time; "" without /proc."""
    try:
        boot, namespace = _machine()
        return f"{boot} {namespace} {os.getpid()} {_start_time(os.getpid())}"
    except OSError:
        return ""


def _has_ended(process: str) -> bool:
    """Return True only if the process was one of this machine and certainly runs no more."""
    parts = process.split()
    if len(parts) != 4:  # noqa: PLR2004 - those that _process joins
        return False
    try:
        if tuple(parts[:2]) != _machine():
            return False
    except OSError:
        return False
    return _start_time(int(parts[2])) != parts[3]


def _machine() -> tuple[str, str]:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return boot, str(Path("/proc/self/ns/pid").readlink())


def _start_time(pid: int) -> str:
    """Return when a process started, in the kernel's unit; "" if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]
