"""One process at a time in a folder, disks that are full, and processes that are lost."""

import errno
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from logging import getLogger
from pathlib import Path
from typing import TextIO

import psutil

from .errors import InputError, MachineError
from .files import first_line
from .processes import launched

try:
    import fcntl
except ImportError:  # Windows has no such locks: what is written in the file decides there
    fcntl = None

logger = getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# In the errors of gloo and NCCL when another process of the run is gone.
LOST = ("closed by peer", "reset by peer", "Broken pipe", "imed out", "NCCL", "store->")

AGAIN = "run the same command again, a training with --resume"


@contextmanager
def locked(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock `path` in this context. The file says who holds it: process, host and time.

    It is a POSIX lock: the system releases it with its process, however that ends. They work on local disks and on
    network disks with a lock service, such as NFS 4. On others, and on Windows, the process in the file decides: one
    of this host that has ended is ignored, one of another host is not.

    Args:
        what: is in use, for the message: "output_dir runs/a".
        wait: until another process releases it, instead of raising.

    Raises:
        InputError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    announced = False
    while True:
        with path.open("a+", encoding="utf-8") as file:
            holder = _holder(file)
            if holder is None and _same_file(path, file):
                file.truncate(0)
                started = datetime.now(UTC).isoformat(timespec="seconds")
                json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": started}, file)
                file.flush()
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)  # before it is released
                return
        if holder and not wait:
            raise InputError(
                f"{what} is in use by {holder}. Wait until it has ended, or choose another folder. If there is no such"
                f" process, delete {path}."
            )
        if holder:
            if not announced:
                logger.info("%s is in use by %s; waiting until it has ended", what, holder)
            announced = True
            time.sleep(0.2)


def _holder(file: TextIO) -> str | None:
    """Take the lock of an open file: None; or who has it."""
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "no locks")
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None
    except OSError as error:
        by_system = error.errno in (errno.EACCES, errno.EAGAIN)
    file.seek(0)
    try:
        written = json.loads(file.read())
        pid, host, since = int(written["pid"]), str(written["host"]), str(written["since"])
    except (ValueError, LookupError, TypeError):  # it is being written, or new
        return "another process" if by_system else None
    if not by_system and host == socket.gethostname() and (pid == os.getpid() or not psutil.pid_exists(pid)):
        return None
    return f"process {pid} on {host} since {since}"


def _same_file(path: Path, file: TextIO) -> bool:
    """Whether an open file still has its name: the one who held the lock before deletes it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise a `MachineError` if the disk of `folder` has less than `needed` bytes left for `what`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise MachineError(
            f"{what} needs {_size(needed)}, but the disk of {folder} has {_size(free)} left:"
            f" {_size(needed - free)} are missing. Make room and {AGAIN}."
        )


def full_disk(error: OSError) -> str | None:
    """The message for an error of writing to a full disk; None for any other."""
    if error.errno not in FULL:
        return None
    place = f" {error.filename} could not be written." if error.filename else ""
    return f"The disk is full ({error.strerror}).{place} What was complete is kept: make room and {AGAIN}."


def lost_process(error: RuntimeError) -> str | None:
    """The message for an error of a run whose processes have lost one of them; None for any other."""
    if launched() == 1 or not any(words in str(error) for words in LOST):
        return None
    return f"Another process of this run was lost ({first_line(error)[:200]}). What was complete is kept: {AGAIN}."


def machine_fault(error: OSError | RuntimeError) -> str | None:
    """The message for an error by which the machine is at fault; None for any other."""
    return full_disk(error) if isinstance(error, OSError) else lost_process(error)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
