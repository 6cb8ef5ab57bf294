"""Commands in forked processes: they begin in milliseconds, since everything slow is imported already."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import thread
from functools import partial
from typing import IO

import torch
from accelerate.state import AcceleratorState
from tqdm import tqdm


def fork(main: Callable[[], object], output: IO[bytes]) -> int:
    """The id of a process that calls `main` and then exits as the interpreter would. Its output goes to `output`."""
    if child := os.fork():
        return child
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)  # OpenMP's threads were not copied
        thread._threads_queues.clear()  # of the pool's threads, which this process does not have
        tqdm.set_lock(
            threading.RLock()
        )  # its own one is shared, and stays locked if a process that holds it is killed
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        main()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        threading._shutdown()  # waits for the threads of libraries
        os._exit(code)


def fork_several(main: Callable[[], object], number: int, output: IO[bytes]) -> list[int]:
    """The ids of `number` processes that share the work of `main`, as those of `accelerate launch` do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def started(rank: int) -> None:
        if number > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
        AcceleratorState._reset_state(reset_partial_state=True)
        main()

    return [fork(partial(started, rank), output) for rank in range(number)]


def wait_until(condition: Callable[[], object], children: list[int], seconds: float = 120) -> None:
    """Return as soon as the condition holds, which it has to before one of the children ends."""
    ends = time.monotonic() + seconds
    while not condition():
        assert not any(os.waitpid(child, os.WNOHANG)[0] for child in children), "a process ended too early"
        assert time.monotonic() < ends, f"{seconds:g} seconds have passed"


def exit_codes(children: list[int], seconds: float = 120) -> list[int]:
    """Wait until all of them have ended: their exit codes, -9 of one that was killed or took longer."""
    ends, codes = time.monotonic() + seconds, {}
    while len(codes) < len(children):
        for child in children:
            if child in codes:
                continue
            if time.monotonic() > ends:
                os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return [codes[child] for child in children]
