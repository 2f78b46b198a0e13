"""The process itself: what the metrics say of it, read from /proc when somebody looks, and how often its garbage is collected."""

from __future__ import annotations

import gc
import os
import time

from gateway.metrics import Metrics, Samples

YOUNG = 10_000  # containers made and not yet freed, between two collections; Python's own: 700


def settle() -> None:
    """Call once all is built: it lives as long as the process, so that no collection need look at it again. Requests leave no cycles
    behind, and a stream has some 30 containers: at Python's own pace a thousand that start together are walked through 60 times for
    nothing."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])


def measure(metrics: Metrics, version: str, started: float) -> None:
    """Adds the process's own families, named as Prometheus names them. `started` is unix seconds. Once per `Metrics`."""
    metrics.callback("pointsman_build_info", "Always 1; the version is the label.", lambda: [({"version": version}, 1)], merge="max")
    metrics.callback("process_start_time_seconds", "Start, unix time.", lambda: started, merge="max")
    metrics.callback("process_cpu_seconds_total", "User and system CPU time.", time.process_time, kind="counter")
    metrics.callback("process_resident_memory_bytes", "Resident memory.", _resident)
    metrics.callback("process_open_fds", "Open file descriptors.", _descriptors)


def _resident() -> Samples:
    """Empty where /proc does not tell: a peak, which other systems know, is another thing."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return ()


def _descriptors() -> Samples:
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # one is the listing's own
    except OSError:
        return ()
