"""Follows one publisher of KV-cache events (`kvformat`) into the index. Pure: no socket, no clock.

Batches are numbered from 0 by each life of a publisher. What was missed is asked for (`Need`) where there is a replay endpoint, which has
the last 10,000 batches or so, never the state: who joins later than that does not know the roots of what is cached, and sees blocks whose
parents it does not know (*orphans*). A publisher that has restarted counts from 0 again; after a connection was lost we ask for the last
batch that we know once more, and one that does not have it, or another by that number, is a new one.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from routing.kvformat import END_OF_REPLAY, BadEvents, Batch, Removed, Stored, decode
from routing.kvtier import Blocks, Link, Tier
from routing.prefix import TOKEN_BLOCK, salted

SILENT_HITS = 8  # answers with cached tokens but no event in between, after which a publisher is not believed
MISSES = 16  # answers predicted too high, or too low, more than as they were, after which what we have is not believed
BAD_MAX = 3  # batches in a row that cannot be read, likewise
FILLS_MAX = 8  # replays in a row for one gap: an engine drops what its socket cannot take
WINDOW, ENOUGH = 64, 16  # stored events by which orphans are judged: at most, at least
_FULL = frozenset({"full_attention", "mla_attention", "sink_full_attention", "unknown"})


class Need(msgspec.Struct, frozen=True):
    """What the owner of the socket should do: ask the replay endpoint for batches from `start` on and give each to `part`, then call
    `filled`; until then no other `message`."""

    start: int


State = Literal["waiting", "live", "partial", "silent", "broken"]


class _Fill:
    """A replay under way. `check`: the number of the last batch known, which must come first, unchanged. `again`: the one before asked for
    the same, so that what does not come was not dropped on the way. `stale`: what comes does not continue what we have."""

    __slots__ = ("again", "check", "stale", "start")

    def __init__(self, check: int | None, before: int | None) -> None:
        self.start, self.check, self.stale = check or 0, check, False
        self.again = self.start == before


class Feed:
    """Follows one publisher, that is one replica's cache, into `index` (device memory) and `lower` (host memory, disk, remote).

    `model` salts the chains; `size` tokens make one of our blocks. State: `waiting` until something has come, `live`, `partial` when most
    of what is announced continues what we never saw, `silent` when the engine reports hits but sends no events, `broken` when they cannot
    be read. Only while `live` should it be believed; otherwise the replica is one without events (approximate mode), and `reason` says
    why in a sentence. No method blocks or raises.
    """

    def __init__(self, replica: int, index: Blocks, lower: Blocks, model: str = "", size: int = TOKEN_BLOCK, replay: bool = False) -> None:
        self.device, self.lower = Tier(replica, index, size), Tier(replica, lower, size)
        self.model, self.replay, self.size = model, replay, size
        self.state: State = "waiting"
        self.reason = "no event has come yet"
        self.expected: int | None = None  # the next sequence number
        self.ts = 0.0  # the engine's Unix seconds in the last batch
        self.batches = self.gaps = self.lost = self.orphans = self.restarts = self.resyncs = self.skipped = 0
        self._fill: _Fill | None = None
        self._fills = 0
        self._held: tuple[int, bytes] | None = None  # the batch that showed the gap
        self._group: int | None = None  # the one group of layers that is indexed
        self._ignored: set[int] = set()  # groups without full attention
        self._orphaned = self._judged = 0  # of the last WINDOW stored events: bits, count
        # Batches in a row that cannot be read; hits without an event in between; answers predicted too high and too low.
        self._bad = self._hits = self._high = self._low = 0
        self._down = self._rejoined = False

    @property
    def live(self) -> bool:
        """Whether the index may be believed for this replica."""
        return self.state == "live"

    # --- from the socket
    def connected(self) -> Need | None:
        """A connection to the publisher is there, for the first time or again."""
        self._down, self._fills, self._held = False, 0, None
        if self.replay:
            return self._ask()
        self._rejoined = self.expected is not None
        if self.state != "broken":
            self.reason = "no event has come since it was connected"
        return None

    def disconnected(self) -> None:
        """The connection is gone. What is known is kept, since the engine may be there still, but not believed."""
        self._fill = self._held = None
        self._down = True
        if self.state != "broken":
            self.state, self.reason = "waiting", "its KV-event socket is not connected"

    def message(self, seq: int, payload: bytes) -> Need | None:
        """Takes a published batch in. Returns what to fetch when some were missed and a replay endpoint is there."""
        if self._fill is not None:
            self.filled(False)  # what was asked for is not waited for
        batch = self._decode(payload)
        if batch is None:
            return None
        rejoined, self._rejoined = self._rejoined, False
        if rejoined and seq != self.expected:  # the same publisher or another one: nothing tells
            self._anew()
        missed = self._missed(seq, batch)
        if missed is not None and self._down:
            return None  # was under way when the connection ended; the next one asks for it
        if missed is not None and self.replay:
            self._held = (seq, payload)
            return self._ask()
        if missed is not None and self.expected is not None:
            self.lost += seq - self.expected
        self._take(seq, batch)
        return None

    def part(self, seq: int, payload: bytes) -> None:
        """Takes a batch of the replay that was asked for. Those known already are passed over."""
        fill = self._fill
        if fill is None or fill.stale or seq == END_OF_REPLAY:
            return
        batch = self._decode(payload)
        if batch is None:
            fill.stale = True
            return
        if fill.check is not None and self._checked(fill, seq, batch):
            return
        self._part(fill, seq, batch)

    def filled(self, whole: bool) -> Need | None:
        """The replay is over: to its end mark (`whole`), or because time is. Returns what to fetch again, if anything."""
        fill, self._fill = self._fill, None
        if fill is None:
            return None
        if whole and fill.check is not None and not fill.stale:  # it does not have what we had from it
            fill.stale = True
            if fill.again:
                self._held = None
                self._anew()
        if whole and fill.stale and self._fills < FILLS_MAX:
            return self._ask(fill.start)
        self._fills = 0
        if whole:
            self.expected = self.expected or 0
            self._believe()
        held, self._held = self._held, None
        if held is not None:
            self._settle(*held)
        return None

    def bad(self, why: str) -> bool:
        """Something came that is no batch. True when this made us stop believing its events: warn, with `reason`."""
        self._bad += 1
        if self._bad < BAD_MAX or self.state == "broken":
            return False
        self._distrust("broken", f"its KV events cannot be read: {why}")
        return True

    # --- from elsewhere
    def hit(self, cached: int, predicted: int) -> bool:
        """The engine reported `cached` tokens of an answer where we `predicted` so many. True when this made us stop believing its events:
        warn, with `reason`."""
        if self._down or self.state not in ("live", "waiting"):
            return False
        error = cached - predicted
        if abs(error) < self.size:
            self._high, self._low = max(0, self._high - 1), max(0, self._low - 1)
            return False
        if error < 0:
            self._high += 1
            return self._high >= MISSES and self._doubt("fewer")
        self._hits += 1
        self._low += 1
        if self._hits < SILENT_HITS:
            return self._low >= MISSES and self._doubt("more")
        told = f"the engine reported {SILENT_HITS} cache hits that none of its KV events explains, and sent none; is its publisher on?"
        self._distrust("silent", told)
        return True

    def closed(self) -> None:
        """The engine is gone or starts anew: what it had is forgotten."""
        self._forget()
        self.state, self.reason = "waiting", "no event has come yet"
        self._fill = self._held = None
        self._fills = self._bad = 0
        self._down = self._rejoined = False

    def show(self, on: bool) -> None:
        """Whether what is followed stands in the indexes, at first it does: followed it is in any case. O(blocks)."""
        self.device.show(on)
        self.lower.show(on)

    # --- inside
    def _ask(self, before: int | None = None) -> Need:
        """From the last batch known on: a publisher that does not have that one is another one. `before`: where the last replay began."""
        self._fill = _Fill(self.expected - 1 if self.expected else None, before)
        self._fills += 1
        return Need(self._fill.start)

    def _decode(self, payload: bytes) -> Batch | None:
        try:
            batch = decode(payload)
        except BadEvents as e:
            self.bad(str(e))
            return None
        self._bad = 0
        return batch

    def _missed(self, seq: int, batch: Batch) -> int | None:
        """The first number that was missed, None when there is none. Notices restarts."""
        if self.expected is None:
            return 0 if seq else None
        if seq > self.expected:
            self.gaps += 1
            return self.expected
        if seq < self.expected and batch.ts > self.ts:  # counts anew, and is no late copy of what we had
            self._anew()
            return 0 if seq else None
        return None

    def _checked(self, fill: _Fill, seq: int, batch: Batch) -> bool:
        """Whether the first batch of a replay needs nothing more: it is the last one known, or there is nothing to be done with it."""
        if seq == fill.check and batch.ts == self.ts:
            fill.check = None
            return True
        if seq != fill.check and not fill.again:  # perhaps dropped on the way: asked for once more
            fill.stale = True
            return True
        fill.check = self._held = None
        if seq == fill.start:
            self._anew()
            fill.stale = fill.start > 0  # there is more of it
        else:  # older batches than those are not kept: what was removed since is not known either
            self.lost += seq - (self.expected or 0)
            self.resyncs += 1
            self._forget()
        return fill.stale

    def _part(self, fill: _Fill, seq: int, batch: Batch) -> None:
        first = self.expected is None and (fill.again or seq == 0)  # of those that it keeps
        if first or (self.expected is not None and seq <= self.expected):
            self._take(seq, batch)
        else:
            fill.stale = True  # some were dropped on the way

    def _settle(self, seq: int, payload: bytes) -> None:
        """Takes the batch that showed a gap, whatever is missing before it by now."""
        if self.expected is not None and seq > self.expected:
            self.lost += seq - self.expected
        batch = self._decode(payload)
        if batch is not None:
            self._take(seq, batch)

    def _take(self, seq: int, batch: Batch) -> None:
        if self.expected is not None and seq < self.expected:
            return
        self.expected, self.ts = seq + 1, batch.ts
        self.batches += 1
        self._hits = 0
        self.skipped += batch.skipped
        for e in batch.events:
            if isinstance(e, Stored):
                self._store(e)
            elif isinstance(e, Removed):
                if self._group is None or e.group == self._group:
                    (self.device if e.device else self.lower).remove(e.hashes)
            else:
                self.device.clear()
                self.lower.clear()
                self._orphaned = self._judged = 0  # from here on every root will be announced
                self.state = "waiting" if self.state == "partial" else self.state
        if self._fill is None:
            self._believe()

    def _store(self, e: Stored) -> None:
        if not self._indexed(e):
            return
        tier, other = (self.device, self.lower) if e.device else (self.lower, self.device)
        if e.parent is None:
            link: Link | None = (salted(self.model, e.lora, e.salt), b"", ())
        else:
            link = tier.links.get(e.parent) or other.links.get(e.parent)
        self._orphaned = (self._orphaned << 1 | (link is None)) & (1 << WINDOW) - 1
        self._judged = min(WINDOW, self._judged + 1)
        if link is None:
            self.orphans += 1  # its parent was announced before we listened
        elif e.tokens is None:
            self.skipped += 1
        else:
            tier.store(e, e.tokens, link)

    def _indexed(self, e: Stored) -> bool:
        """Whether these blocks are of the group of layers that we index: the first one with full attention. Having the blocks of a sliding
        window or of a state is not having the prefix; groups of one kind evict alike."""
        if e.group not in self._ignored and ((e.kind and e.kind not in _FULL) or (e.tokens is None and e.group)):
            if self._group == e.group:
                self._forget(False)
            self._ignored.add(e.group)
        if self._group is None and e.group not in self._ignored:
            self._group = e.group
        return e.group == self._group and e.group not in self._ignored

    def _believe(self) -> None:
        """What the events seen so far are worth."""
        if self._down:
            return
        orphans, of = self._orphaned.bit_count(), self._judged
        if of >= ENOUGH and orphans * 2 > of:
            self.state = "partial"
            self.reason = f"{orphans} of its last {of} stored blocks continue what was cached before this gateway listened"
        elif self.state != "partial" or (of >= ENOUGH and orphans * 8 <= of):
            self.state, self.reason = "live", ""

    def _doubt(self, what: str) -> bool:
        """What we have is not what the engine has: removals or roots were missed, or it lost its cache unseen."""
        self._forget(False)
        self.resyncs += 1
        self.state = "partial"
        self.reason = f"the engine reported {what} cached tokens than its KV events say, {MISSES} times; its cache is learned anew"
        return True

    def _anew(self) -> None:
        self.restarts += 1
        self._forget()

    def _forget(self, numbers: bool = True) -> None:
        self.device.clear()
        self.lower.clear()
        self._group = None
        self._ignored.clear()
        self._orphaned = self._judged = self._hits = self._high = self._low = 0
        if numbers:
            self.expected, self.ts = None, 0.0

    def _distrust(self, state: State, reason: str) -> None:
        self._forget()
        self.state, self.reason = state, reason
