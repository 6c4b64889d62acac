"""A program for the tests: a parent with children that do not want to go.

`python family.py FILE WORD...`: writes the process numbers of all its members to FILE, then
behaves as the words say: `stubborn` children ignore SIGTERM, a `runaway` one leaves the
session, `polite` says goodbye, `deaf` ignores SIGTERM itself, `exit0` ends at once.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

IGNORE = (
    "import signal; signal.alarm(120); "
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
)


def main() -> None:
    file, words = Path(sys.argv[1]), set(sys.argv[2:])
    members = [os.getpid()]
    if "stubborn" in words:
        members.append(subprocess.Popen([sys.executable, "-IS", "-c", IGNORE]).pid)
    if "runaway" in words:
        command = [sys.executable, "-IS", "-c", IGNORE]
        members.append(subprocess.Popen(command, start_new_session=True).pid)
    if "deaf" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "polite" in words:
        signal.signal(signal.SIGTERM, lambda *_: (print("goodbye", flush=True), sys.exit(0)))
    beside = file.with_suffix(".tmp")
    beside.write_text(" ".join(map(str, members)))
    beside.rename(file)
    print("up", flush=True)
    if "exit0" in words:
        print("RuntimeError: the last word", flush=True)
        sys.exit(0)
    signal.alarm(120)
    signal.pause()


if __name__ == "__main__":
    main()
