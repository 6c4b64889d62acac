"""Undisturbed cores on a machine that others use too, where the system allows it."""

import os


def realtime() -> bool:
    """Ask for a real-time priority; whether it was granted."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except (AttributeError, PermissionError, OSError):
        return False
    return True
