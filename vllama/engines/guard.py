"""The guard: runs one command and takes it along when whoever asked for it ends.

A program of its own, with the standard library only: `python guard.py COMMAND...`. Its
standard input is a pipe whose other end only vllama holds. When the pipe closes, however
vllama ended, or when SIGTERM arrives, the command and all that came of it is stopped.

On POSIX it is two processes: the inner one runs the command, the outer one watches the
inner, so that killing either leaves nothing behind. On Linux both adopt orphans, so that
also what has left the command's session is found.
"""

import os
import select
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 3.0
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Run the command; its exit status, as a shell gives it."""
    if sys.platform == "win32":
        return _on_windows()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _control(PR_SET_CHILD_SUBREAPER, 1)
    alive, life = os.pipe()
    inner = os.fork()
    if inner == 0:
        os.close(life)
        os._exit(_run(alive))
    os.close(alive)
    # The inner one gets it through the pipe, in time to stop in peace.
    signal.signal(signal.SIGTERM, lambda *_: _close(life))
    _, status = os.waitpid(inner, 0)
    _sweep()
    return _code(status)


def _run(alive: int) -> int:
    """The inner guard. `alive` closes when the outer one ends."""
    _control(PR_SET_CHILD_SUBREAPER, 1)  # a fork does not inherit it
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    child = subprocess.Popen(
        sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent
    )
    while child.poll() is None:
        ready, _, _ = select.select([0, alive, woken], [], [], 1.0)
        if (0 in ready and not os.read(0, 1)) or alive in ready:
            break
        if woken in ready and signal.SIGTERM in os.read(woken, 64):
            break
    _stop(child)
    _sweep()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _stop(child: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to the leader, then SIGKILL to all that is left of its session."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    child.wait()


def _sweep() -> None:
    """SIGKILL to whatever still descends from this process, until nothing does."""
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and (left := _descendants(os.getpid())):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        _reap()
        time.sleep(0.01)


def _reap() -> None:
    """Take the status of adopted children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _descendants(root: int) -> list[int]:
    """All processes below `root`; none where /proc does not tell."""
    parents: dict[int, int] = {}
    try:
        processes = [entry for entry in os.scandir("/proc") if entry.name.isdigit()]
    except OSError:
        return []
    for process in processes:
        try:
            parents[int(process.name)] = _parent(f"{process.path}/stat")
        except (OSError, IndexError, ValueError):
            pass
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def _parent(path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # The name in brackets may hold anything, brackets too.
        return int(os.read(descriptor, 4096).rpartition(b")")[2].split()[1])
    finally:
        os.close(descriptor)


def _die_with_parent() -> None:
    """Linux: the command also goes when the inner guard is killed."""
    _control(PR_SET_PDEATHSIG, signal.SIGKILL)


def _control(option: int, value: int) -> None:
    """Linux's prctl; nothing elsewhere."""
    if not sys.platform.startswith("linux"):
        return
    try:
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (OSError, AttributeError):
        pass


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        pass


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _on_windows() -> int:
    """One process there: a thread waits for the pipe, `taskkill` stops the whole tree."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

    def follow() -> None:
        os.read(0, 1)
        subprocess.run(
            ["taskkill", "/T", "/F", "/PID", str(child.pid)], capture_output=True, check=False
        )

    threading.Thread(target=follow, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main())
