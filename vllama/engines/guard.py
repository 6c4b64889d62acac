"""The guard: runs one command and takes it along when whoever asked for it ends.

A program of its own, with the standard library only: `python guard.py COMMAND...`. Its
standard input is a pipe whose other end only vllama holds. When the pipe closes, however
vllama ended, or when SIGTERM arrives, the command's whole session is stopped.
"""

import os
import select
import signal
import subprocess
import sys
import time

GRACE_S = 3.0


def main() -> int:
    """Run the command; its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    child = subprocess.Popen(
        sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent
    )
    while child.poll() is None:
        ready, _, _ = select.select([0, woken], [], [], 1.0)
        if 0 in ready and not os.read(0, 1):
            break
        if woken in ready and signal.SIGTERM in os.read(woken, 64):
            break
    _stop(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _stop(child: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to the leader, then SIGKILL to all that is left of its session."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            pass
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            break
        child.poll()
        time.sleep(0.02)
    child.wait()


def _die_with_parent() -> None:
    """Linux: the command also goes when this guard is killed."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (OSError, AttributeError):
        pass


if __name__ == "__main__":
    sys.exit(main())
