"""A follower on its own, whose words a test takes one after the other."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.discovery.kubernetes import Api, Follower, Seen
from gateway.discovery.slices import Service
from tests.fakes.kubernetes import DEADLINE, TOKEN, Cluster, kubeconfig

REASON = "the official client is not installed: pip install 'pointsman[kubernetes]'"


class Following:
    """What a follower has told."""

    def __init__(self) -> None:
        self.told: queue.Queue[Seen] = queue.Queue()
        self.follower: Follower

    def next(self) -> Seen:
        return self.told.get(timeout=DEADLINE)

    def until(self, holds: Callable[[Seen], bool]) -> Seen:
        """The first word that is so; those before it are lost."""
        while not holds(seen := self.next()):
            continue
        return seen


def hosts(seen: Seen) -> list[str]:
    """The hosts of the ready endpoints."""
    assert seen.found is not None
    return [one.url.removeprefix("http://").partition(":")[0] for one in seen.found.endpoints if one.ready]


@contextmanager
def following(service: Service, connect: Callable[[str], Any] = Api, base: float = 0.002) -> Iterator[Following]:
    """A follower for the time of the block. It ends with it, and leaves nothing open."""
    made = Following()
    made.follower = Follower(service, made.told.put, connect=connect, draw=lambda: 0.0, base=base)
    made.follower.start()
    try:
        yield made
    finally:
        made.follower.stop()
        made.follower.join(DEADLINE)
        assert not made.follower._thread.is_alive()


def way_to(cluster: Cluster, folder: Path, patch: pytest.MonkeyPatch, token: str = TOKEN, authority: str = "") -> Path:
    """Makes the official client find `cluster`; its kubeconfig."""
    file = folder / "kubeconfig"
    file.write_text(kubeconfig(cluster, token, authority))
    patch.setenv("KUBECONFIG", str(file))
    patch.setenv("no_proxy", "127.0.0.1")
    return file
