"""What each replica's KV cache is believed to hold, from four sources, and how well that was predicted. Plain state, no clock.

A replica is *precise* while its engine's events are believed (`index`), else *approximate*: its cache is what our own dispatches imply
(`guesses`). Blocks of dispatches under way are `expected`; what an engine just computed is `fresh` until its events have had the time to
say so. `lower` has what is not in the engine's cache but can be loaded into it.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Hashable, Iterable, Sequence

from routing.kv_want import Truth
from routing.prefix import Approximate, Expected, PrefixIndex, walk

FRESH_MAX = 4096  # answers whose events may be under way; of more, the oldest are no longer believed
ERRORS_KEPT = 512  # of a replica, for the percentiles


class Record:
    """Prediction against truth of one replica. Bounded: the percentiles are of the last ERRORS_KEPT answers."""

    __slots__ = ("_errors", "answers", "predicted", "prompt", "reported")

    def __init__(self) -> None:
        self.answers = self.prompt = self.predicted = self.reported = 0
        self._errors = array("d")

    def add(self, prompt: int, predicted: int, reported: int) -> None:
        """One answer told how many of its `prompt` tokens were cached. O(1)."""
        error = float(abs(predicted - reported))
        if len(self._errors) < ERRORS_KEPT:
            self._errors.append(error)
        else:
            self._errors[self.answers % ERRORS_KEPT] = error
        self.answers += 1
        self.prompt += prompt
        self.predicted += predicted
        self.reported += reported

    def read(self) -> Truth:
        """The figures as they stand. O(ERRORS_KEPT)."""
        errors = sorted(self._errors) or [0.0]
        last = len(errors) - 1
        return Truth(self.answers, self.prompt, self.predicted, self.reported, errors[round(last * 0.5)], errors[round(last * 0.95)])


class Caches:
    """Owner of all that is believed of the replicas' caches. Every method mutates but `match`, `below` and the checks; none blocks."""

    __slots__ = (
        "_fresh",
        "_gone",
        "_keep",
        "_timed",
        "expected",
        "fresh",
        "guesses",
        "index",
        "least",
        "lower",
        "n",
        "precise",
        "records",
        "threshold",
    )

    def __init__(self, guess: int, keep: float) -> None:
        self.n = 0
        self.index, self.lower = PrefixIndex(0), PrefixIndex(0)
        self.guesses = Approximate(0, guess, least=min(64, guess))
        self.expected, self.fresh = Expected(0), Expected(0)
        self.precise: list[bool] = []
        self.least: list[int] = []  # tokens of prompt below which the replica caches nothing
        self.threshold = 0  # the largest of these, of any replica ever
        self.records: list[Record] = []
        self._keep = keep
        self._fresh: deque[tuple[float, int, Sequence[Hashable]]] = deque()  # until when, replica, blocks
        self._gone: set[int] = set()  # replicas that left; nothing is learned of them
        self._timed: set[int] = set()  # replicas whose entries have a time to live

    @property
    def version(self) -> int:
        """Changes with anything that a match depends on."""
        grows = self.index.version + self.guesses.version + self.expected.version  # as each part does
        return grows + self.fresh.version + self.lower.version

    def join(self, i: int, precise: bool, blocks: int | None, ttl: float | None, least: int) -> None:
        """Replica `i` is another engine from now on, of which nothing is known. Grows when `i` is the next number."""
        if i == self.n:
            self.n += 1
            for part in (self.index, self.lower, self.expected, self.fresh, self.guesses):
                part.grow(self.n)
            self.precise.append(precise)
            self.least.append(least)
            self.records.append(Record())
        self.leave(i)
        self._gone.discard(i)
        self.precise[i], self.least[i], self.records[i] = precise, least, Record()
        self.threshold = max(self.threshold, least)
        self.guesses.begin(i, blocks, ttl)
        if ttl is not None:
            self._timed.add(i)

    def leave(self, i: int) -> None:
        """The engine is gone, and its cache with it. What is expected of its requests ends with them."""
        self.clear(i)
        self.lower.clear(i)
        self._timed.discard(i)
        self._gone.add(i)

    def clear(self, i: int) -> None:
        """The engine lost what it had in its own memory."""
        self.index.clear(i)
        self.guesses.clear(i)
        for _, _, blocks in [x for x in self._fresh if x[1] == i]:
            self.fresh.drop(i, blocks)
        self._fresh = deque(x for x in self._fresh if x[1] != i)

    def trust(self, i: int, precise: bool) -> None:
        """Whether the engine's events are believed. What the other source said is dropped, or it would never be taken back."""
        if precise:
            self.guesses.clear(i)
        else:
            self.index.clear(i)
        self.precise[i] = precise

    def tidy(self, now: float) -> None:
        """Drops what has been believed for long enough."""
        waiting = self._fresh
        while waiting and (waiting[0][0] <= now or len(waiting) > FRESH_MAX):
            _, i, blocks = waiting.popleft()
            self.fresh.drop(i, blocks)
        for i in self._timed:  # hosted APIs alone
            self.guesses.expire(i, now)

    def match(self, blocks: Sequence[Hashable]) -> tuple[list[int], int]:
        """For each replica how many leading blocks it has or will have, and a bitmask of those that are still to compute some."""
        have = self.guesses.match(blocks)
        if self.index.masks:  # of other replicas than those whose caches are guessed
            for i, depth in enumerate(walk(self.index.masks, blocks, self.n)):
                if depth and not have[i]:
                    have[i] = depth
        if self._fresh:
            have = list(map(max, have, self.fresh.match(blocks)))
        return have, self.expected.deeper(blocks, have)

    def below(self, blocks: Sequence[Hashable]) -> list[int]:
        """For each replica how many leading blocks it has when what can be loaded counts too."""
        out = walk(self.index.masks, blocks, self.n, self.lower.masks)
        for i in range(self.n):
            if not self.precise[i] and self.guesses.count(i):
                lower = self.lower.masks
                out[i] = next((k for k, b in enumerate(blocks) if not (self.guesses.has(i, b) or lower.get(b, 0) >> i & 1)), len(blocks))
        return out

    def answered(self, i: int, blocks: Sequence[Hashable], now: float) -> None:
        """The replica has computed these: its first token came."""
        if i in self._gone:
            return
        if not self.precise[i]:
            self.guesses.touch(i, blocks, now)
        elif blocks and not self.index.masks.get(blocks[-1], 0) >> i & 1:
            self.fresh.add(i, blocks)
            self._fresh.append((now + self._keep, i, blocks))

    def wrote(self, i: int, blocks: Sequence[Hashable], now: float) -> None:
        """The replica has all of these now, an answer among them. A precise one says so itself."""
        if not self.precise[i] and i not in self._gone:
            self.guesses.touch(i, blocks, now)

    def told(self, i: int, blocks: Sequence[Hashable], predicted: float, reported: float, late: bool) -> None:
        """The engine found so many leading blocks; `late`: `answered` was called before."""
        if not self.precise[i]:
            self.guesses.report(i, blocks, int(predicted + 1e-6), int(reported + 1e-6), late)

    def check(self) -> None:
        """AssertionError when any count is not what the contents say. For tests."""
        self.index.check()
        self.lower.check()
        self.guesses.check()
        again = Expected(self.n)
        for _, i, blocks in self._fresh:
            again.add(i, blocks)
        assert again.masks == self.fresh.masks, "fresh blocks are not those of the answers that wait for events"

    def check_expected(self, under_way: Iterable[tuple[int, Sequence[Hashable]]]) -> None:
        """AssertionError unless the blocks expected are just those of these dispatches. For tests."""
        again = Expected(self.n)
        for i, blocks in under_way:
            again.add(i, blocks)
        assert again.masks == self.expected.masks, "blocks are expected that no request under way will bring"
