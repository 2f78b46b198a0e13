"""A process that is stopped and goes on, and gets a signal then, as when its children were stopped too: the store writes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.experiments.store import WAKE

STORE = """
import asyncio, signal, sys
from gateway.experiments.store import TrialStore
from tests.gateway.experiments.plains import add, left

async def main():
    store = TrialStore(sys.argv[1])
    signal.signal(signal.SIGUSR1, lambda *_: None)
    await store.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # only the store's thread is interrupted by it
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        add(store.plain, [left(int(line))])
        while store.queued:
            await asyncio.sleep(0.01)
        print(store.written, flush=True)
    await store.stop()

asyncio.run(main())
"""


@pytest.mark.timeout(60)
def test_the_store_writes_on_after_its_process_was_stopped(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STORE, str(tmp_path / "e.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdin is not None and process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for n in range(1, 4):
                process.send_signal(signal.SIGSTOP)
                time.sleep(2 * WAKE)  # its thread's wait must run out while it stands still: no event tells of that
                process.send_signal(signal.SIGUSR1)
                process.send_signal(signal.SIGCONT)
                process.stdin.write(f"{n}\n")
                process.stdin.flush()
                assert process.stdout.readline() == f"{n}\n"
            process.stdin.close()
            assert process.wait(30) == 0
        finally:
            process.kill()  # one that hangs is not waited for
