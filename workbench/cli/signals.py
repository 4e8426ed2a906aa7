"""Ctrl-C, and what a cancelled CI job is sent, seen at once wherever the main thread waits."""

import functools
import signal
import socket
import threading
import time

_NUDGE = signal.SIGURG  # which systems ignore unless told otherwise
_AGAIN_S = 0.1


def end_like_ctrl_c() -> None:
    """Let a cancelled CI job end like Ctrl-C, in the background too: with true records and no kernel left.

    So does what runs in a terminal that is closed, but not what was started to outlive it, as by nohup.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.default_int_handler)


@functools.cache
def see_signals_at_once() -> None:
    """Let a signal end whatever the main thread waits for, from now on in this process.

    The system may give a signal to any thread (Linux 6.18: 12 of 300, beside three busy ones). CPython 3.11 then takes
    note of it, but wakes no main thread that waits for a lock, and only the main thread handles signals: Ctrl-C had no
    effect until all was done. So another thread reads what came, and interrupts the main one's waiting.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    signal.signal(_NUDGE, lambda number, frame: None)
    threading.Thread(target=_nudge_main_thread, args=(reader, writer), name="signals", daemon=True).start()


def _nudge_main_thread(reader: socket.socket, _writer: socket.socket) -> None:
    main = threading.main_thread().ident
    assert main is not None
    while came := reader.recv(64):
        if set(came) - {_NUDGE}:
            for pause_s in (0, _AGAIN_S):  # the first may come just before it begins to wait
                time.sleep(pause_s)
                signal.pthread_kill(main, _NUDGE)
