"""What gateways tell each other, so that several behave like one. Pure state: messages in, messages out; the channel is another's work.

Each gateway says when it books, when a first token comes and when a booking ends; the others book the same under its name, and expect the
same blocks in the same caches. In the tens of milliseconds before they hear, two could choose the same idle replica. So each replica has
an order of gateways, another for every replica: of those who have it, the first in order may use it at once, the next one `delay` later
than the last news of that replica, and so on. No lock, no leader: all compute the same order from the names they have heard.

Each gateway numbers its replicas by itself; messages name them by numbers that all share (`name_of`, `number_of`). What a gateway says
must come in order or be noticed as lost: whoever misses something says so (`lost`), and is told everything anew.

    booked, answered, ended     the life of a request; a booking brings its chain of blocks, shortened (kv_chains), and an end may bring
                                that of prompt and answer
    here, gone                  a sign of life, with the replicas that I have (as blocks); a farewell
    anew, waits, runs, told     these are my bookings, and no others
    again                       to one gateway (`key`), or to all (0): tell me anew
    want, piece, whole          a newcomer asks one gateway for what it knows of caches, and gets it in pieces (kv_seed)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence

from routing.kv_chains import Chains
from routing.kv_load import Booking, Load
from routing.kv_said import Caches
from routing.kv_said import Foreign as Foreign
from routing.kv_said import Message as Message
from routing.kv_seed import Piece, Seed

SILENT_SECONDS = 15.0  # a peer that says nothing for so long is gone, and its bookings with it
BEAT_SECONDS = 5.0  # so each says something at least so often
AGAIN_SECONDS = 1.0  # between two times that all is told anew, or asked for
ANSWER_SECONDS = 3.0  # without an answer to that question, after which it is asked again
BOX = 4096  # messages not fetched; with more, all is told anew
FETCH_MESSAGES, FETCH_BLOCKS = 256, 3072  # at most that many at once; with it a fetch stays below 64 KiB
DELAY_SECONDS = 0.02  # until measured
TICK_SECONDS = 0.012  # how much later than it could a gateway looks again
DELAY_MAX = 0.5
MOST_PEERS, MOST_BOOKINGS, MOST_REPLICAS, MOST_STRANGERS = 1024, 1 << 16, 4096, 256


class Peers:
    """One gateway's view of the others. Writes their bookings into `load`; `name` is a random number, unlike any other's, not 0."""

    __slots__ = (
        "_again", "_anew", "_box", "_chains", "_has", "_keys", "_load", "_mine", "_names", "_next", "_number", "_places", "_said", "_stale",
        "_strangers", "_swept", "_talks", "_told", "caches", "delay", "gateways", "name", "name_of", "number_of", "passed", "seed", "seen",
    )  # fmt: skip

    def __init__(self, name: int, load: Load, caches: Caches | None = None) -> None:
        self.name, self._load, self.caches = name, load, caches
        self.name_of: Callable[[int], int | None] = lambda number: number
        self.number_of: Callable[[int], int | None] = lambda shared: shared if 0 <= shared < len(load.waiting) else None
        self.seen: dict[int, float] = {}  # peer -> when it last said something
        self.seed = Seed()
        self.passed = 0  # messages that could not be used
        self._keys: dict[int, dict[Foreign, None]] = {}
        self._stale: dict[int, set[Foreign]] = {}  # of a peer that tells anew: what it has not named yet
        self._chains: dict[int, Chains] = {}
        self._box: deque[Message] = deque()
        self._told = Chains()
        self._mine: dict[Hashable, int] = {}
        self._number = 0
        self._talks = self._anew = False
        self._next = float("-inf")  # when all may be told anew again
        self._again: dict[int, float] = {}  # peer -> when it was asked to tell anew, until it does
        self._strangers: dict[int, None] = {}  # names of replicas that we do not know
        self._said, self._swept = 0.0, float("-inf")
        self._names: tuple[int, ...] = ()  # of our replicas, as the others were told
        self._has: dict[int, frozenset[Hashable]] = {}  # peer -> its replicas' names, once it has told
        self._places: dict[int, int] = {}  # our number of a replica -> where we stand in its order
        self.gateways, self.delay = 1, DELAY_SECONDS

    # --- what we say
    def booked(self, b: Booking) -> None:
        """To be told: a request of ours went out. Costs nothing until somebody has called `fetch`."""
        if self._talks:
            self._book("booked", b)

    def answered(self, b: Booking, t: float) -> None:
        """To be told: its first token came."""
        if b.key in self._mine:
            self._say("answered", self._mine[b.key], t)

    def ended(self, b: Booking, t: float, blocks: Sequence[Hashable] = ()) -> None:
        """To be told: it is over, and where an answer was written, the replica has these `blocks` now."""
        if b.key in self._mine:
            base, tail = self._told.cut(blocks)
            self._box.append(Message(self.name, "ended", self._mine.pop(b.key), 0, t, 0.0, 0, base, tail))

    def fetch(self, t: float) -> list[Message]:
        """What to send to every peer now, bounded; what is left comes with the next call. Mutates. Times are the clock's that all share."""
        if not self._talks:
            self._talks = self._anew = True
        if (self._anew or len(self._box) > BOX) and t >= self._next:
            self._tell_anew(t)
        elif t - self._said >= BEAT_SECONDS:
            self._here("here", t)
        if len(self._box) < FETCH_MESSAGES:
            self._box.extend(self._piece(p, t) for p in self.seed.pieces())
        out: list[Message] = []
        blocks = 0
        while self._box and len(out) < FETCH_MESSAGES and blocks < FETCH_BLOCKS:
            out.append(self._box.popleft())
            blocks += len(out[-1].blocks)
        self._said = t if out else self._said
        return out

    def farewell(self, t: float) -> list[Message]:
        """The last thing to send: our bookings end with us."""
        return [Message(self.name, "gone", at=t)]

    # --- what we hear
    def hear(self, messages: Iterable[Message], t: float) -> bool:
        """Takes in what peers sent, in the order of each. True when a booking or a cache changed. Mutates; never raises."""
        changed = False
        for m in messages:
            if m.gateway == self.name or (m.gateway not in self.seen and not self._meet(m, t)):
                continue
            self.seen[m.gateway] = t
            act = _ACTS.get(m.kind)
            if act is None:
                self.passed += 1
            elif act(self, m, t):
                changed = True
        return self.sweep(t) or changed

    def lost(self, gateway: int, t: float) -> None:
        """To be told: something of this peer's was missed. Asks for all of it; until that comes, what we have stays."""
        if gateway in self.seen:
            self._ask_again(gateway, t)

    def lost_all(self, t: float) -> None:
        """To be told: we were deaf for a while. As `lost`, of every peer."""
        self._again.update(dict.fromkeys(self.seen, t))
        self._say("again", 0, t)

    def gone(self, gateway: int, t: float) -> bool:
        """To be told: this peer is dead. Ends its bookings. True when there was one."""
        if gateway not in self.seen:
            return False
        for key in [*self._keys[gateway]]:
            self._leave(key, t)
        del self.seen[gateway], self._keys[gateway], self._chains[gateway]
        self._stale.pop(gateway, None)
        self._has.pop(gateway, None)
        self._again.pop(gateway, None)
        self.seed.gone(gateway)
        self._count()
        return True

    def sweep(self, t: float) -> bool:
        """Forgets peers that fell silent, and what they had booked; asks a peer for a seed. True when bookings ended. Cheap."""
        if t - self._swept < 0.1:
            return False
        self._swept = t
        if self._talks and self._mine_named() != self._names:
            self._here("here", t)
        silent = [g for g, last in self.seen.items() if t - last > SILENT_SECONDS]
        for gateway in silent:
            self.gone(gateway, t)
        chosen = self.seed.choose(self.seen, t)
        if chosen is not None:
            self._say("want", chosen, t)
        for gateway in [g for g, asked in self._again.items() if t - asked >= ANSWER_SECONDS]:
            self._ask_again(gateway, t)
        if any(self.number_of(name) is not None for name in self._strangers):  # a replica has come that peers had before us
            self._strangers.clear()
            self.lost_all(t)
        return bool(silent)

    def turn(self, replica: int, since: float, t: float) -> float:
        """Seconds until we may use the replica for a request that came at `since`; 0.0 when it is our turn."""
        place = self._places.get(replica)
        if place is None:
            place = self._places[replica] = self._place(replica)
        if not place:
            return 0.0
        news = self._load.changed[replica]
        return max(0.0, max(news, since) + place * (self.delay + TICK_SECONDS) - t)

    # --- one kind of message each; True when a booking or a cache changed
    def _on_booked(self, m: Message, t: float) -> bool:
        self._learn(m, t)
        return self._enter(m)

    def _on_waits(self, m: Message, t: float) -> bool:
        self._stale.get(m.gateway, set()).discard(Foreign(m.gateway, m.key))
        return self._enter(m)

    def _on_runs(self, m: Message, t: float) -> bool:
        entered = self._on_waits(m, t)
        return self._reach(Foreign(m.gateway, m.key), m.at) or entered

    def _on_answered(self, m: Message, t: float) -> bool:
        self._learn(m, t)
        return self._reach(Foreign(m.gateway, m.key), m.at)

    def _on_ended(self, m: Message, t: float) -> bool:
        self._learn(m, t)
        key = Foreign(m.gateway, m.key)
        b, blocks = self._load.bookings.get(key), self._chains[m.gateway].join(m.base, m.blocks)
        left = self._leave(key, m.at)
        if left and blocks and b is not None and b.answered and self.caches is not None:
            self.caches.wrote(b, blocks, m.at)
        return left

    def _on_here(self, m: Message, t: float) -> bool:
        self._has[m.gateway] = frozenset(m.blocks[:MOST_REPLICAS])
        self._places.clear()
        self.seed.heard(m.gateway, m.tokens, t)
        return False

    def _on_gone(self, m: Message, t: float) -> bool:
        return self.gone(m.gateway, t)

    def _on_anew(self, m: Message, t: float) -> bool:
        self._again.pop(m.gateway, None)
        self._chains[m.gateway].clear()
        self._stale[m.gateway] = {*self._keys[m.gateway]}
        return self._on_here(m, t)

    def _on_told(self, m: Message, t: float) -> bool:
        return any([self._leave(key, t) for key in self._stale.pop(m.gateway, ())])

    def _on_again(self, m: Message, t: float) -> bool:
        if m.key in (self.name, 0):
            self._anew = True
        return False

    def _on_want(self, m: Message, t: float) -> bool:
        if m.key == self.name and self.caches is not None:
            named = ((i, self.name_of(i)) for i in range(len(self._load.waiting)))
            self.seed.serve(m.gateway, [(i, name) for i, name in named if name is not None], self.caches.kept)
        return False

    def _on_piece(self, m: Message, t: float) -> bool:
        number = self.number_of(m.replica)
        if m.key != self.name or number is None or self.caches is None or not self.seed.takes(m.gateway, t):
            return False
        self.caches.seed(number, m.blocks, m.tokens, t)
        return True

    def _on_whole(self, m: Message, t: float) -> bool:
        if m.key == self.name:
            self.seed.done(m.gateway)
        return False

    # --- how
    def _meet(self, m: Message, t: float) -> bool:
        """A gateway that we did not know. It must hear of us, and if this is not its first word, we missed what it has booked."""
        if m.kind == "gone" or len(self.seen) >= MOST_PEERS:
            self.passed += 1
            return False
        self.seen[m.gateway], self._keys[m.gateway], self._chains[m.gateway] = t, {}, Chains()
        self._count()
        self._anew = True
        if m.kind != "anew":
            self._ask_again(m.gateway, t)
        return True

    def _learn(self, m: Message, t: float) -> None:
        self.delay += 0.02 * (min(DELAY_MAX, max(0.0, t - m.at)) - self.delay)

    def _enter(self, m: Message) -> bool:
        blocks = self._chains[m.gateway].join(m.base, m.blocks)  # also of what is passed over: later chains build on it
        keys, key, number = self._keys[m.gateway], Foreign(m.gateway, m.key), self.number_of(m.replica)
        if key in keys:
            return False
        if number is None or len(keys) >= MOST_BOOKINGS:
            self.passed += 1
            if number is None and len(self._strangers) < MOST_STRANGERS:
                self._strangers[m.replica] = None
            return False
        keys[key] = None
        b = Booking(key, number, m.prefill, m.tokens, 0, blocks or (), m.at)
        self._load.book(b)
        if self.caches is not None:
            self.caches.began(b)
        return True

    def _reach(self, key: Foreign, at: float) -> bool:
        found = self._load.answer(key, at)
        if found is not None and self.caches is not None:
            self.caches.reached(found[0], at)
        return found is not None

    def _leave(self, key: Foreign, at: float) -> bool:
        keys = self._keys[key.gateway]
        if key not in keys:
            return False
        del keys[key]
        b = self._load.end(key, at)
        if b is not None and self.caches is not None:
            self.caches.over(b)
        return b is not None

    def _count(self) -> None:
        self.gateways = len(self.seen) + 1
        self._places.clear()

    def _place(self, replica: int) -> int:
        """How many gateways may use this replica before us: all who have it are in an order that begins with another one for each."""
        shared = self.name_of(replica)
        if shared is None:
            return 0
        others = [g for g in self.seen if g not in self._has or shared in self._has[g]]
        return (sum(g < self.name for g in others) - shared) % (len(others) + 1)

    def _mine_named(self) -> tuple[int, ...]:
        return tuple(name for i in range(len(self._load.waiting)) if (name := self.name_of(i)) is not None)

    def _ask_again(self, gateway: int, t: float) -> None:
        if t - self._again.get(gateway, -AGAIN_SECONDS) >= AGAIN_SECONDS:
            self._again[gateway] = t
            self._say("again", gateway, t)

    def _tell_anew(self, t: float) -> None:
        self._box = deque(m for m in self._box if m.kind in _ASIDE)
        self._told.clear()
        self._anew, self._next = False, t + AGAIN_SECONDS
        self._here("anew", t)
        for b in self._load.bookings.values():
            if not isinstance(b.key, Foreign):
                self._book("runs" if b.answered else "waits", b)
        self._say("told", 0, t)

    def _here(self, kind: str, t: float) -> None:
        self._names = self._mine_named()
        self._places.clear()
        stock = 0 if self.caches is None else self.caches.stock()
        self._box.append(Message(self.name, kind, at=t, tokens=stock, blocks=self._names))

    def _book(self, kind: str, b: Booking) -> None:
        shared = self.name_of(b.replica)
        if shared is None:
            return
        if b.key not in self._mine:
            self._number += 1
            self._mine[b.key] = self._number
        base, tail = self._told.cut(b.blocks)
        self._box.append(Message(self.name, kind, self._mine[b.key], shared, b.at, b.prefill, b.tokens, base, tail))

    def _piece(self, p: Piece, t: float) -> Message:
        if p.replica is None:
            return Message(self.name, "whole", p.asker, at=t)
        return Message(self.name, "piece", p.asker, p.replica, t, 0.0, p.capacity, None, p.blocks)

    def _say(self, kind: str, key: int, t: float) -> None:
        self._box.append(Message(self.name, kind, key, at=t))


_ASIDE = frozenset({"again", "want", "piece", "whole"})  # what telling anew does not make idle
_ACTS: dict[str, Callable[[Peers, Message, float], bool]] = {
    "booked": Peers._on_booked,
    "waits": Peers._on_waits,
    "runs": Peers._on_runs,
    "answered": Peers._on_answered,
    "ended": Peers._on_ended,
    "here": Peers._on_here,
    "gone": Peers._on_gone,
    "anew": Peers._on_anew,
    "told": Peers._on_told,
    "again": Peers._on_again,
    "want": Peers._on_want,
    "piece": Peers._on_piece,
    "whole": Peers._on_whole,
}
