"""One request on its way through a slot: the `Flight` that its sender holds, and the `Receiver` of the engine's answer.

It may wait before it is sent, and once, before anything of its answer has come, it may be called back and sent again. Its sender notices
nothing of that but the time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from backends.types import Call, Fault, Flight, Receiver, Target, Timeouts

if TYPE_CHECKING:
    from backends.slots.group import Group
    from backends.slots.link import SlotLink
    from backends.slots.table import Slot

_TIMINGS = re.compile(rb'"cache_n":(\d+),"prompt_n":(\d+),"prompt_ms":([\d.]+)')


class Truth(msgspec.Struct, frozen=True):
    """What the engine says of one prompt: tokens found in the slot, tokens computed, and seconds of that."""

    cached: int
    computed: int
    seconds: float


def truth(data: bytes) -> Truth | None:
    """llama.cpp's `timings`, in a whole answer or in the last event of a stream; None where there are none."""
    at = data.rfind(b'"timings":{')
    found = _TIMINGS.search(data, at) if at >= 0 else None
    return Truth(int(found[1]), int(found[2]), float(found[3]) / 1e3) if found else None


class Ride:
    """A request. `text` is its prompt's, `slot` what it holds, `group` what it waits for, `leads` the group that waits for it.
    `expected`: bytes of its text that were restored for it. `waits`: for how many groups it has waited; `alone`: it waits no more, and
    nothing is restored for it. `quiet`: nothing else was computed when it was sent."""

    __slots__ = (
        "alone", "call", "expected", "flight", "group", "head", "leads", "link", "over", "paused", "quiet", "receiver", "slot", "target",
        "text", "timeouts", "told", "waits",
    )  # fmt: skip

    def __init__(self, link: SlotLink, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver, text: bytes) -> None:
        self.link, self.call, self.target, self.timeouts, self.receiver, self.text = link, call, target, timeouts, receiver, text
        self.flight: Flight | None = None
        self.slot: Slot | None = None
        self.group: Group | None = None
        self.leads: Group | None = None
        self.told: Truth | None = None
        self.head: Mapping[bytes, bytes] | None = None  # of a leader's stream, until its first token
        self.expected = self.waits = 0
        self.over = self.paused = self.alone = self.quiet = False

    # --- Flight
    def pause(self) -> None:
        """Stops reading the answer."""
        self.paused = True
        if self.flight is not None:
            self.flight.pause()

    def resume(self) -> None:
        """Reads on."""
        self.paused = False
        if self.flight is not None:
            self.flight.resume()

    def cancel(self) -> None:
        """Gives the request up, wherever it is. Idempotent."""
        if self.over:
            return
        self.over = True
        flight, self.flight = self.flight, None
        if flight is not None:
            flight.cancel()
        self.link.left(self)

    def fail(self, fault: Fault) -> None:
        """Ends a request that is not under way."""
        if not self.over:
            self.over = True
            self.link.left(self)
            self.receiver.on_fault(fault)

    # --- Receiver
    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        self.link.headed(self, 0)  # its answer is there already: nothing is called back
        self._end(truth(body) if status == 200 else None)
        self.receiver.on_whole(status, headers, body)

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        if self.leads is not None and status == 200:
            self.head = headers  # llama.cpp sends it before it computes anything
        else:
            self.link.headed(self, 0)
            self.receiver.on_head(status, headers)

    def on_data(self, data: bytes) -> None:
        if self.head is not None and not self._begun():
            return
        if b'"timings":{' in data:
            self.told = truth(data) or self.told
        self.receiver.on_data(data)

    def _begun(self) -> bool:
        """The first token of a leader. False when nobody may see it: it is called back, or its receiver has given it up."""
        headers, self.head = self.head, None
        if headers is None or self.link.headed(self, 200):
            return False
        self.receiver.on_head(200, headers)
        return not self.over

    def on_end(self) -> None:
        if self.head is not None and not self._begun():
            return
        self._end(self.told)
        self.receiver.on_end()

    def on_fault(self, fault: Fault) -> None:
        self.head = None
        self.link.headed(self, 0)
        if self.slot is not None:
            self.slot.text = b""  # whatever it holds now
        self._end(None)
        self.receiver.on_fault(fault)

    def _end(self, told: Truth | None) -> None:
        self.over, self.flight = True, None
        self.link.ended(self, told)
