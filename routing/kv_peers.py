"""What gateways tell each other, so that several behave like one. Pure state: messages in, messages out; the channel is another's work.

Each gateway says when it books, when a first token comes and when a booking ends; the others book the same under its name. In the tens of
milliseconds before they hear, two could choose the same idle replica. So each replica has an order of gateways, another for every replica:
the first in order may use it at once, the next one `delay` later than the last news of that replica, and so on. No lock, no leader:
all compute the same order from the names they have heard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable

from routing.kv_load import Booking, Load

Message = tuple[int, str, Hashable, int, float, float, int]  # gateway, kind, key, replica, time, prefill seconds, tokens

SILENT_SECONDS = 15.0  # a peer that says nothing for so long is gone, and its bookings with it
BEAT_SECONDS = 5.0  # so each says something at least so often
BOX = 4096  # messages not fetched; older ones are dropped
DELAY_SECONDS = 0.02  # until measured
TICK_SECONDS = 0.012  # how much later than it could a gateway looks again
DELAY_MAX = 0.5


class Peers:
    """One gateway's view of the others. Writes their bookings into `load`; `name` is a random number, unlike any other's."""

    __slots__ = ("_box", "_keys", "_load", "_said", "delay", "gateways", "name", "rank", "seen")

    def __init__(self, name: int, load: Load) -> None:
        self.name, self._load = name, load
        self.seen: dict[int, float] = {}  # peer -> when it last said something
        self._keys: dict[int, dict[Hashable, None]] = {}
        self._box: deque[Message] = deque(maxlen=BOX)
        self._said = 0.0
        self.gateways, self.rank, self.delay = 1, 0, DELAY_SECONDS

    def booked(self, b: Booking) -> None:
        """To be told: a request of ours went out."""
        self._say("booked", b.key, b.replica, b.at, b.prefill, b.tokens)

    def answered(self, b: Booking, t: float) -> None:
        """To be told: its first token came."""
        self._say("answered", b.key, b.replica, t, 0.0, 0)

    def ended(self, b: Booking, t: float) -> None:
        """To be told: it is over."""
        self._say("ended", b.key, b.replica, t, 0.0, 0)

    def fetch(self, t: float) -> list[Message]:
        """What to send to every peer now, at most BOX messages. Times are the clock's that all gateways share (Unix seconds)."""
        if t - self._said >= BEAT_SECONDS:
            self._say("here", None, 0, t, 0.0, 0)
        out = list(self._box)
        self._box.clear()
        return out

    def hear(self, messages: Iterable[Message], t: float) -> None:
        """Takes in what a peer sent. Unknown kinds and news of bookings we never heard of are passed over."""
        for gateway, kind, key, replica, at, prefill, tokens in messages:
            if gateway == self.name or not 0 <= replica < len(self._load.waiting):
                continue
            if gateway not in self.seen:
                self._keys[gateway] = {}
            self.seen[gateway] = t
            self.delay += 0.02 * (min(DELAY_MAX, max(0.0, t - at)) - self.delay)
            self._apply(gateway, kind, (gateway, key), replica, at, prefill, tokens)
        self.sweep(t)

    def sweep(self, t: float) -> None:
        """Forgets peers that fell silent, and what they had booked."""
        for gateway in [g for g, last in self.seen.items() if t - last > SILENT_SECONDS]:
            del self.seen[gateway]
            self._load.drop(self._keys.pop(gateway), t)
        if len(self.seen) + 1 != self.gateways:
            self.gateways = len(self.seen) + 1
            self.rank = sum(name < self.name for name in self.seen)

    def turn(self, replica: int, since: float, t: float) -> float:
        """Seconds until we may use the replica for a request that came at `since`; 0.0 when it is our turn."""
        place = (self.rank - replica) % self.gateways
        if not place:
            return 0.0
        news = self._load.changed[replica]
        return max(0.0, max(news, since) + place * (self.delay + TICK_SECONDS) - t)

    def _apply(self, gateway: int, kind: str, key: Hashable, replica: int, at: float, prefill: float, tokens: int) -> None:
        keys = self._keys[gateway]
        if kind == "booked" and key not in keys:
            keys[key] = None
            self._load.book(Booking(key, replica, prefill, tokens, 0, (), at))
        elif kind == "answered":
            self._load.answer(key, at)
        elif kind == "ended" and key in keys:
            del keys[key]
            self._load.end(key, at)

    def _say(self, kind: str, key: Hashable, replica: int, t: float, prefill: float, tokens: int) -> None:
        self._said = max(self._said, t)
        self._box.append((self.name, kind, key, replica, t, prefill, tokens))
