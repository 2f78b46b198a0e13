"""What each slot of an engine holds, what moving and computing cost, and what to do with a request. Pure: no clock, no I/O.

llama.cpp keeps one sequence a slot and reuses only what a new prompt shares with the slot's own from its beginning. A prompt is known
here as text: the bytes of its tools and messages as the client wrote them. What two texts share from their beginning is a
good measure of what their tokens share, and it costs no question to the engine; how many tokens a byte is, is learned. A wrong guess
costs time and never an answer: llama.cpp compares the tokens itself.

Seconds, bytes and tokens throughout.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Literal, Protocol, TypeVar

import msgspec

SMALL = 512  # bytes of text: below that nothing is worth moving
SIMILAR = 256  # bytes: what texts share below that is the form of a JSON document, and no reason to choose a slot
MARGIN = 0.01  # seconds that restoring must win, for what is not counted
TOLERANCE, SLACK = 1.1, 0.02  # waiting may be predicted that much longer than computing at once: it spares the machine the work
BOILERPLATE = 0.9  # of a text: what covers that much covers it
KEEP = 0.5  # of a slot: what a request reuses less of is saved before it is lost, as llama.cpp does with its own cache
NOTICE = 1.0  # llama.cpp looks once a second whether a silent client has left
NEW = 0.25  # of a text: what no file on disk holds yet, for another file; so a conversation is written a few times, not at each turn
WORTH = 4.0  # times what saving and restoring take must computing cost, for KV to be saved
MEMORY, DISK = 1e-9, 5e-9  # seconds a byte: of a copy in memory, and what reading it from disk or writing it there adds
_RENDERED = ("chat_template_kwargs", "tools", "messages")
_OWN = frozenset({"id_slot", "lora", "cache_prompt"})  # a client who says these wants slots handled its own way
_MEDIA = (b'"image_url"', b'"input_audio"', b'"video_url"')
LANE = 32  # bytes of a salt's digest; a zero byte, which no JSON has, follows
Doc = Mapping[str, msgspec.Raw]
Learned = Literal["prefill", "ratio", "density"]
Moved = Literal["save", "load", "fetch", "keep"]
_BASE: Mapping[Moved, float] = {"save": MEMORY, "load": MEMORY, "fetch": DISK, "keep": DISK}


class Entry(Protocol):
    """What `plan` must know of KV that is in the store."""

    text: bytes
    tokens: int
    size: int
    near: bool


def text_of(api: str, doc: Doc) -> bytes | None:
    """The text by which a request's prompt is compared; None where a slot must not be chosen for it."""
    if not _OWN.isdisjoint(doc) or doc.get("n", b"1") not in (b"1", b"null"):
        return None
    if api == "completions":
        prompt = bytes(doc.get("prompt", b""))
        return _lane(doc) + prompt[:-1] if prompt[:1] == b'"' else None
    messages = bytes(doc.get("messages", b""))
    if api != "chat" or any(kind in messages for kind in _MEDIA):
        return None
    # Without the bracket at its end: the next turn of a conversation goes on where this one ends.
    return _lane(doc) + b"".join(bytes(doc[key]) for key in _RENDERED if key in doc).removesuffix(b"]")


def _lane(doc: Doc) -> bytes:
    """What a request's text begins with where it says `cache_salt`: requests of different salts have no text in common."""
    salt = bytes(doc.get("cache_salt", b"null"))
    return b"" if salt == b"null" else hashlib.blake2b(salt, digest_size=LANE // 2).hexdigest().encode() + b"\0"


def lane(text: bytes) -> bytes:
    """The salt of a text, in digest; empty where it has none."""
    return text[:LANE] if text[LANE : LANE + 1] == b"\0" else b""


def common(one: bytes, other: bytes) -> int:
    """How many first bytes two texts share: a binary search over slices, which are compared as memory."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


class Slot:
    """One of an engine's. `text` is what it was given last, `used` when it was let go, `until` when the engine will have noticed that
    a request was given up. Until the engine has computed that text, what it held before may still be there: `private` says whether any of
    it is a private call's, `mixed` whether any is of another salt."""

    __slots__ = ("busy", "id", "mixed", "private", "text", "until", "used")

    def __init__(self, id: int) -> None:
        self.id, self.text, self.busy, self.private, self.mixed = id, b"", False, False, False
        self.used = self.until = 0.0

    def __repr__(self) -> str:
        return f"<Slot {self.id} {'busy' if self.busy else 'idle'} {len(self.text)} bytes>"

    def alien(self, text: bytes) -> bool:
        """Whether something of another salt than that of `text` may be in it."""
        return self.mixed or lane(self.text) != lane(text)

    def hold(self, text: bytes, private: bool) -> None:
        """It is given another prompt."""
        self.mixed, self.private = self.alien(text), self.private or private
        self.text = text

    def settle(self, text: bytes, private: bool) -> None:
        """It holds `text` and nothing else."""
        self.text, self.private, self.mixed = text, private, False


class Table:
    """An engine's slots. Whoever takes one lets it go again, once."""

    def __init__(self, count: int) -> None:
        self.slots = [Slot(i) for i in range(count)]

    def __repr__(self) -> str:
        return f"<Table {sum(s.busy for s in self.slots)} of {len(self.slots)} busy>"

    def nearest(self, text: bytes, now: float) -> tuple[Slot | None, int]:
        """The idle slot that holds most of `text`, and how many bytes; else the one to lose, and 0. None when all are taken."""
        best, most = None, 0
        for slot in self.slots:
            if not slot.busy and slot.text and (shared := common(slot.text, text)) > most:
                if shared >= SIMILAR or 2 * shared >= len(slot.text):
                    best, most = slot, shared
        return (best, most) if best is not None else (self.spare(now), 0)

    def spare(self, now: float) -> Slot | None:
        """The idle slot whose loss costs least: one that is empty, else the one that was used longest ago."""
        idle = [slot for slot in self.slots if not slot.busy]
        return min(idle, key=lambda s: (s.until > now, s.text != b"", s.used), default=None)

    def sibling(self, text: bytes) -> int:
        """The most bytes that `text` shares with a slot whose own text goes on differently: a prefix of several requests."""
        shared = [(common(slot.text, text), len(slot.text)) for slot in self.slots if slot.text]
        return max((n for n, size in shared if n >= SIMILAR and n < size), default=0)

    def take(self, slot: Slot) -> Slot:
        """Marks `slot`, which must be idle, as taken."""
        assert not slot.busy, slot
        slot.busy = True
        return slot

    def free(self, slot: Slot, now: float, until: float = 0.0) -> None:
        """Lets `slot` go. `until`: when the engine will really have left it."""
        assert slot.busy, slot
        slot.busy, slot.used, slot.until = False, now, until


class Speed:
    """What computing and moving take, learned from what the engine reports. One for all replicas of a model on this machine.

    Moving is learned as the median of the last few: one that was held up must not end all moving, as there would be no other to learn from.
    """

    def __init__(self) -> None:
        self.prefill = 1e-3  # seconds a token; see `expect`
        self.ratio = 0.25  # tokens a byte of text
        self.density = 32e3  # bytes of KV a token
        self._moves = {name: deque([base, base], 5) for name, base in _BASE.items()}  # seconds a byte
        self._seen: set[str] = set()

    @property
    def save(self) -> float:
        """Seconds a byte."""
        return median(self._moves["save"])

    @property
    def load(self) -> float:
        """Seconds a byte."""
        return median(self._moves["load"])

    @property
    def fetch(self) -> float:
        """Seconds a byte that reading from disk adds."""
        return median(self._moves["fetch"])

    @property
    def keep(self) -> float:
        """Seconds a byte that writing to disk adds."""
        return median(self._moves["keep"])

    def recall(self, prefill: float, ratio: float, density: float) -> None:
        """What an earlier process had learned of the same model on this machine."""
        for name, value in (("prefill", prefill), ("ratio", ratio), ("density", density)):
            if name not in self._seen and value > 0:
                setattr(self, name, value)
                self._seen.add(name)

    def expect(self, parameters: int, threads: int) -> None:
        """A first guess from the model's size: two operations a weight and token, 20 billion a second and thread."""
        if "prefill" not in self._seen:
            self.prefill = max(1e-6, 2 * parameters / (2e10 * max(1, threads)))

    def learn(self, name: Learned, value: float) -> None:
        """One measurement. The first counts whole, later ones a quarter."""
        old = getattr(self, name)
        setattr(self, name, old + (value - old) / 4 if name in self._seen else value)
        self._seen.add(name)

    def moved(self, name: Moved, seconds: float, size: int) -> None:
        """One move of `size` bytes."""
        self._moves[name].append(seconds / size)

    def spurn(self) -> None:
        """What could have been restored is computed instead: what was learned of moving fades, so that it is tried again."""
        for name, told in self._moves.items():
            self._moves[name] = deque((each + (_BASE[name] - each) / 16 for each in told), 5)

    def knows(self, name: str) -> bool:
        """Whether that was ever measured."""
        return name in self._seen

    def tokens(self, size: int) -> float:
        """Tokens of so many bytes of text."""
        return size * self.ratio

    def compute(self, size: int) -> float:
        """Seconds of prefill for so many bytes of text."""
        return self.prefill * self.ratio * size

    def moving(self, size: int) -> float:
        """Seconds to save and to restore the KV of so many bytes of text."""
        return self.density * self.ratio * size * (self.save + self.load) + 2e-3

    def loaded(self, entry: Entry) -> float:
        """Seconds to restore what is in the store."""
        return entry.size * (self.load + (0.0 if entry.near else self.fetch)) + 1e-3

    def bytes(self, size: int, budget: int) -> int:
        """Bytes of KV of so many bytes of text. The first that is saved tells: until then a guess must not keep it from being tried, within
        half of `budget`."""
        found = int(self.density * self.tokens(size))
        return found if self.knows("density") else min(found, budget // 2)

    def pays(self, size: int) -> bool:
        """Whether KV of so many bytes of text is worth saving."""
        return self.compute(size) > WORTH * self.moving(size)

    def lasts(self, size: int, held: int) -> bool:
        """Whether KV of so many bytes of text is worth a file on disk, where files hold `held` bytes of it already."""
        written = self.density * self.ratio * size * (self.keep + self.fetch)
        return size - held >= max(SMALL, NEW * size) and self.compute(size - held) > WORTH * (self.moving(size) + written)


E = TypeVar("E", bound=Entry)


def nearest(entries: Iterable[E], text: bytes, ratio: float) -> tuple[E | None, int]:
    """The entry that spares most of `text`, and how many bytes of it."""
    best, most = None, 0
    for entry in entries:
        shared = min(common(entry.text, text), int(entry.tokens / ratio) if ratio else 0)
        smaller = shared == most and best is not None and (not entry.near, entry.size) < (not best.near, best.size)
        if shared >= SIMILAR and (shared > most or smaller):
            best, most = entry, shared
    return best, most


class Computing(msgspec.Struct, frozen=True):
    """A prefix that is being computed: how much of the request it holds, seconds until it is there, and whether by the same engine."""

    shared: int
    left: float
    here: bool


Choice = Literal["run", "restore", "wait"]


def choose(size: int, kept: int, entry: Entry | None, held: int, job: Computing | None, speed: Speed) -> Choice:
    """What gives a request of `size` bytes its first token soonest: computing what its slot does not keep (`kept` bytes), restoring
    `entry`, which holds `held` bytes, or waiting for `job`.

    An engine computes one batch after the other: what it is computing now, a request that does not wait for it must wait for all the same.
    """
    run = speed.compute(size - kept)
    restore = speed.loaded(entry) + speed.compute(size - held) + MARGIN if entry is not None else float("inf")
    if job is not None:
        wait = job.left + speed.moving(job.shared) + speed.compute(size - job.shared)
        soonest = (min(run, restore) + (job.left if job.here else 0.0)) * TOLERANCE + SLACK
        if job.shared > max(kept, held) and speed.pays(job.shared) and wait <= soonest:
            return "wait"
    return "restore" if restore < run else "run"
