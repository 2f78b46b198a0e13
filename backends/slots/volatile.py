"""Which part of a prompt keeps its KV from being used again: a line near the beginning that is another each time (a date, a bill's number)
while what follows it is the same.

Recent prompts of one model and tenant are compared as text, each with the one that shares most with it. Where they part, the line is looked
for after which they go on alike. A question that differs has nothing alike behind it, and a conversation that goes on parts nowhere:
neither is one. Pure: no clock, no I/O. Sizes are bytes of JSON text, tokens by the ratio that was learned.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict, deque
from collections.abc import Iterator

import msgspec

from backends.slots.table import LANE, SMALL, common, lane

KEYS, TEXTS, TEXT = 64, 6, 32 * 1024  # models and tenants that are watched; recent prompts of each; their first bytes
SPOTS, EXAMPLES, LONGEST = 8, 3, 200  # places of each; what stood there last, in characters
RECURS = 3  # times: that often it is no accident
ALIKE = 128  # bytes behind a line: as much must be the same again
LINES = 4  # so many may differ together
BACK = 2000  # bytes: a longer line begins in its middle
_EDGE = re.compile(rb'\\n|(?<!\\)"')  # where a line of a JSON text begins or ends


class Volatile(msgspec.Struct, frozen=True):
    """One such line. `stable`: tokens before it, which are used again; `lost`: tokens behind it that would be, were it not there; `times`:
    how often it changed in so many `prompts`; `examples`: what it said, newest first."""

    model: str
    tenant: str
    stable: int
    lost: int
    times: int
    prompts: int
    examples: tuple[str, ...] = ()

    def sentence(self, text: bool) -> str:
        """For people; `text`: whether they may see what prompts say."""
        shown = f": '{self.pattern}'" if text and self.examples else ""
        return (
            f"The first {self.stable} tokens are stable; then a line changes ({self.times} times in {self.prompts} prompts){shown}. "
            f"Behind it about {self.lost} tokens are the same again and computed anew: say it at the end of the prompt, or not at all."
        )

    @property
    def pattern(self) -> str:
        """What all examples begin with, and dots."""
        first = min(self.examples, default="")
        size = common(first.encode(), max(self.examples, default="").encode())
        return first.encode()[:size].decode(errors="ignore") + "…" if len(set(self.examples)) > 1 else first


class _Spot:
    """One place where prompts part."""

    __slots__ = ("examples", "lost", "start", "times")

    def __init__(self, start: int) -> None:
        self.start, self.lost, self.times = start, 0, 0
        self.examples: deque[bytes] = deque(maxlen=EXAMPLES)


class _Recent:
    """What one tenant has asked of one model."""

    __slots__ = ("prompts", "spots", "texts")

    def __init__(self) -> None:
        self.texts: deque[bytes] = deque(maxlen=TEXTS)
        self.spots: OrderedDict[bytes, _Spot] = OrderedDict()  # by digest of what is before them
        self.prompts = 0


class Watch:
    """Bounded: of all that it sees it keeps the latest. Belongs to the event loop."""

    def __init__(self) -> None:
        self.recent: OrderedDict[tuple[str, str], _Recent] = OrderedDict()

    def see(self, model: str, tenant: str, text: bytes) -> None:
        """A prompt (see `table.text_of`)."""
        if len(text) < SMALL:
            return
        text = text[LANE + 1 if lane(text) else 0 :][:TEXT]
        recent = self.recent.setdefault((model, tenant), _Recent())
        self.recent.move_to_end((model, tenant))
        if len(self.recent) > KEYS:
            self.recent.popitem(last=False)
        recent.prompts += 1
        shared, other = max(((common(text, each), each) for each in recent.texts), key=lambda found: found[0], default=(0, b""))
        if shared < min(len(text), len(other)) and (found := parted(other, text, shared)) is not None:
            self._mark(recent, text, *found)
        recent.texts.append(text)

    def _mark(self, recent: _Recent, text: bytes, start: int, end: int, lost: int) -> None:
        key = hashlib.blake2b(text[:start], digest_size=16).digest()
        spot = recent.spots.setdefault(key, _Spot(start))
        recent.spots.move_to_end(key)
        if len(recent.spots) > SPOTS:
            recent.spots.popitem(last=False)
        spot.times += 1
        spot.lost = lost
        spot.examples.appendleft(text[start:end])

    def told(self, ratio: float) -> Iterator[Volatile]:
        """What recurs, the costliest of each model and tenant first. `ratio`: tokens a byte."""
        for (model, tenant), recent in self.recent.items():
            found = [spot for spot in recent.spots.values() if spot.times >= RECURS]
            for spot in sorted(found, key=lambda spot: -spot.lost * spot.times):
                examples = tuple(_plain(each) for each in spot.examples)
                yield Volatile(model, tenant, int(spot.start * ratio), int(spot.lost * ratio), spot.times, recent.prompts, examples)


def parted(one: bytes, other: bytes, at: int) -> tuple[int, int, int] | None:
    """Two texts that share `at` bytes: where the line begins in which they part, where it ends in `other`, and how many bytes behind it are
    the same again. None: they do not meet again."""
    start = max(0, at - BACK)
    for edge in _EDGE.finditer(other, start, at):
        start = edge.end()
    ends = [[edge.start() for edge, _ in zip(_EDGE.finditer(text, at), range(LINES), strict=False)] for text in (one, other)]
    for there in ends[1]:
        for here in ends[0]:
            if one[here : here + ALIKE] == other[there : there + ALIKE] and len(other) - there >= ALIKE:
                return start, there, common(one[here:], other[there:])
    return None


def _plain(text: bytes) -> str:
    """A piece of a JSON text as people read it."""
    said = text.decode(errors="replace")
    try:
        said = msgspec.json.decode(b'"' + text + b'"', type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    return " ".join(said.split())[:LONGEST]
