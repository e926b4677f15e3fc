"""How the system schedules this process's threads, kept as it is against encoders that change it."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def scheduling_kept() -> Iterator[None]:
    """Undo what SVT-AV1 does where root runs it: its threads, and the one that opens it, become real-time ones.

    Nothing else runs on a core before such a thread pauses, not even the kernel's own work, and children inherit it: a
    few brought a whole machine to a halt.
    """
    policy, param = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 - names, not paths
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.sched_setscheduler(int(thread), policy, param)
