"""A hold on the kernel of one run, from the moment it starts until nothing of it is left."""

import os
import signal
import threading
from typing import Literal
from weakref import WeakSet

from workbench.temporary_folders import remove_temporary_folders

KERNEL_FOLDER = "workbench-kernel-"
EndedBy = Literal["", "hard_timeout", "interrupted"]
_WATCHDOGS: WeakSet["Watchdog"] = WeakSet()  # of this process


class Watchdog:
    """Holds the process group of one run's kernel, so that another thread can end it at any moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._group: int | None = None
        self.ended_by: EndedBy = ""
        _WATCHDOGS.add(self)

    def hold(self, pid: int) -> None:
        """Take hold of a kernel that has just been started (kernels lead their own process group)."""
        with self._lock:
            self._group = pid
            if self.ended_by:
                self._kill()

    def kill(self, ended_by: EndedBy) -> None:
        """Kill the kernel and its children, also inside native code that no interrupt reaches."""
        with self._lock:
            self.ended_by = self.ended_by or ended_by
            self._kill()

    def release(self) -> None:
        """Let go of a kernel that has ended, and kill the children that it left behind."""
        with self._lock:
            self._kill()
            self._group = None

    def _kill(self) -> None:
        if self._group is not None:
            try:
                os.killpg(self._group, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # the second: macOS, of a group of zombies
                return  # nothing is left of it


def leave_no_kernel() -> None:
    """Remove the folders of all kernels of this process and kill these, before it ends without waiting for its runs."""
    remove_temporary_folders(KERNEL_FOLDER)
    for watchdog in list(_WATCHDOGS):
        watchdog.kill("interrupted")
