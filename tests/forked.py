"""Commands in forked processes: they begin in milliseconds, since everything slow is imported already."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import thread
from typing import IO

from tqdm import tqdm


def fork(main: Callable[[], object], output: IO[bytes]) -> int:
    """The id of a process that calls `main` and then exits as the interpreter would. Its output goes to `output`."""
    if child := os.fork():
        return child
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
