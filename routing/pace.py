"""How fast a replica answers, learned from its answers: seconds to the first token and between tokens. Plain floats; time is an argument.

    TTFT = a + b * thousands of prompt tokens to be read first, + the wait for a slot where slots are known
    TPOT = c + d * other calls under way

"To be read first" are the call's own tokens and those of the calls sent before it that have no token yet: a replica reads one after the
other. Tokens may be a rough estimate, since the same estimate is learned from and predicted with.

Each line is held by recursive least squares. Old observations are forgotten with time and not with their number: the constant drifts
within minutes (other people's load), the slope within an hour (hardware), so the longer nobody was asked, the more the next answer says
(Ljung, System Identification, 11.2: the random walk model). And the longer nobody was asked, the less is believed of what was learned, so
that a replica which was slow once is tried again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from math import exp2, sqrt

THOUSAND = 1e-3
UNKNOWN = 1.0  # seconds to the first token that each call before it adds on a replica that has not answered yet
_DRIFT_A, _DRIFT_B = 300.0, 3600.0  # seconds after which the constant and the slope may be anything
_HALF_A, _HALF_B = 300.0, 1800.0
_NOISE = 0.25  # of an observation, at first
_LONGEST = 3600.0  # an observation beyond it says nothing
_KEEP = 0.9  # of a running mean, at each observation
_LEAST = 1e-12  # of a variance: nothing is known for certain
_FAR = 4.0  # standard deviations: nothing is taken to be further off than that


class Line:
    """`y = a + b x` with both not below zero, and how sure that is. Mutated by `learn` alone, which is O(1)."""

    __slots__ = ("_aa", "_ab", "_at", "_bb", "_noise", "_x", "_y", "a", "b", "seen")

    def __init__(self) -> None:
        self.a = self.b = 0.0
        self.seen = 0
        self._aa = self._ab = self._bb = self._noise = 0.0  # variances
        self._x = self._y = 0.0  # running means: the scales
        self._at = 0.0

    def __repr__(self) -> str:
        return f"<Line {self.a:.4g} + {self.b:.4g} x, of {self.seen}>"

    def mean(self, x: float) -> float:
        """What is expected."""
        return self.a + self.b * x

    def believed(self, x: float, now: float) -> float:
        """What is expected, as far as it is still believed: half of the constant after `_HALF_A` seconds without an observation, half of
        the slope after `_HALF_B`. `now`: on the clock that `learn` has."""
        age = max(0.0, now - self._at)
        return self.a * exp2(-age / _HALF_A) + self.b * x * exp2(-age / _HALF_B)

    def learn(self, x: float, y: float, now: float) -> None:
        """Takes in one observation. What cannot be one (negative, an hour or more, no number) is left out."""
        if not 0.0 <= y < _LONGEST or not x >= 0.0:
            return
        self.seen += 1
        if self.seen == 1:
            self._begin(x, max(y, 1e-4))
        else:
            self._aa, self._ab, self._bb = self._grown(now)
            self._update(x, y)
        self._at = max(self._at, now)

    def _begin(self, x: float, y: float) -> None:
        """The first observation, of numbers that might be anything up to it."""
        whole = 1.0 + x * x
        self.a, self.b = y / whole, y * x / whole
        self._x, self._y, self._noise = x, y, (_NOISE * y) ** 2
        known = y * y / (whole + _NOISE * _NOISE)
        self._aa, self._ab, self._bb = y * y - known, -x * known, y * y - x * x * known

    def _update(self, x: float, y: float) -> None:
        self._x += (1 - _KEEP) * (x - self._x)
        self._y += (1 - _KEEP) * (y - self._y)
        towards_a, towards_b = self._aa + x * self._ab, self._ab + x * self._bb
        spread = towards_a + x * towards_b + self._noise
        off = y - self.mean(x)
        far = _FAR * sqrt(spread)
        off = min(max(off, -far), far)
        gain_a, gain_b = towards_a / spread, towards_b / spread
        self.a, self.b = max(0.0, self.a + gain_a * off), max(0.0, self.b + gain_b * off)
        self._aa -= gain_a * towards_a
        self._ab -= gain_a * towards_b
        self._bb -= gain_b * towards_b
        self._noise = max(_KEEP * self._noise + (1 - _KEEP) * off * off, (0.01 * self._y) ** 2, _LEAST)

    def _grown(self, now: float) -> tuple[float, float, float]:
        """The variances after the time that has passed: each at most as large as the number itself may be."""
        seconds = max(0.0, now - self._at)
        most_a, most_b = self._y**2, (self._y / max(self._x, 0.1)) ** 2
        aa = max(self._aa, min(most_a, self._aa + most_a * seconds / _DRIFT_A))
        bb = max(self._bb, min(most_b, self._bb + most_b * seconds / _DRIFT_B))
        return aa, self._ab, bb


class Pace:
    """What is known of one model on one replica. `slots`: calls that it works on at once, None where that is not known.

    A call is `sent`; then comes its first token (`first`), its end with it (`whole`), or neither (`lost`): exactly one of the three, and
    after `first` a `rest` or nothing. The caller keeps what `sent` gave.
    """

    __slots__ = ("_ahead", "_hold", "_waiting", "gaps", "slots", "starts")

    def __init__(self, slots: int | None = None) -> None:
        self.starts, self.gaps = Line(), Line()
        self.slots = slots
        self._ahead = 0.0  # thousands of tokens that are still to be read
        self._waiting = 0  # calls without a token
        self._hold: float | None = None  # seconds that a call takes, on the mean

    def __repr__(self) -> str:
        return f"<Pace starts {self.starts!r}, gaps {self.gaps!r}, {self._waiting} waiting>"

    @property
    def idle(self) -> bool:
        """Whether no call is without a token."""
        return not self._waiting

    # --- predictions
    def ttft(self, tokens: float, calls: int, now: float) -> float | None:
        """Seconds to the first token of a prompt of so many tokens, with `calls` under way there. None: nothing is known yet, and
        nobody is finding out."""
        if not self.starts.seen:
            return UNKNOWN * (1 + self._waiting) if self._waiting else None
        return self.starts.believed(self._ahead + tokens * THOUSAND, now) + self._wait(calls)

    def tpot(self, calls: int, now: float) -> float | None:
        """Seconds between two tokens beside so many other calls. None: nothing is known."""
        return self.gaps.believed(calls, now) if self.gaps.seen else None

    def _wait(self, calls: int) -> float:
        """Seconds until a slot is free."""
        if self.slots is None or self._hold is None or calls < self.slots:
            return 0.0
        return (calls + 1 - self.slots) * self._hold / self.slots

    # --- what happens
    def sent(self, tokens: float, calls: int, now: float) -> Sent:
        """A call of so many tokens goes to the replica, where `calls` others are under way."""
        ahead = self._ahead + tokens * THOUSAND
        made = Sent(tokens * THOUSAND, ahead, self._wait(calls), calls, now)
        self._ahead, self._waiting = ahead, self._waiting + 1
        return made

    def first(self, sent: Sent, now: float) -> None:
        """Its first token has come."""
        self._read(sent)
        sent.first = now
        self.starts.learn(sent.ahead, max(0.0, now - sent.at - sent.wait), now)

    def lost(self, sent: Sent, now: float) -> None:
        """It ended without a token, by whatever fault. That it took so long at least is learned where more was not expected."""
        self._read(sent)
        seconds = now - sent.at - sent.wait
        if self.starts.seen and seconds > self.starts.mean(sent.ahead):
            self.starts.learn(sent.ahead, seconds, now)

    def whole(self, sent: Sent, output: int, now: float) -> None:
        """Its answer of `output` tokens has come in one piece: the time is shared out as each part is known so far."""
        self._read(sent)
        seconds = max(0.0, now - sent.at - sent.wait)
        self._held(now - sent.at)
        start, gaps = self.starts.mean(sent.ahead), self.gaps.mean(sent.calls) * max(0, output - 1)
        if output < 2 or not self.gaps.seen:
            part = 1.0 if output < 2 else 0.5
        else:
            part = start / (start + gaps) if start + gaps > 0 else 0.5
        self.starts.learn(sent.ahead, seconds * part, now)
        if output > 1:
            self.gaps.learn(sent.calls, seconds * (1 - part) / (output - 1), now)

    def rest(self, sent: Sent, output: int, calls: int, now: float) -> None:
        """A stream that had its first token is over after `output` tokens in all, beside `calls` others at the end."""
        self._held(now - sent.at)
        if output > 1 and sent.first is not None:
            self.gaps.learn((sent.calls + calls) / 2, (now - sent.first) / (output - 1), now)

    def _held(self, seconds: float) -> None:
        self._hold = seconds if self._hold is None else self._hold + (1 - _KEEP) * (seconds - self._hold)

    def _read(self, sent: Sent) -> None:
        if sent.open:
            sent.open = False
            self._waiting -= 1
            self._ahead = max(0.0, self._ahead - sent.tokens) if self._waiting else 0.0


class Sent:
    """One call on its way, as `Pace` wants to see it again. Thousands of tokens, seconds."""

    __slots__ = ("ahead", "at", "calls", "first", "open", "tokens", "wait")

    def __init__(self, tokens: float, ahead: float, wait: float, calls: int, at: float) -> None:
        self.tokens, self.ahead, self.wait, self.calls, self.at = tokens, ahead, wait, calls, at
        self.first: float | None = None
        self.open = True  # it has no token yet


class Paces:
    """The paces of a fleet, by replica and model. One object that outlives reloads; `keep` drops what is gone."""

    def __init__(self) -> None:
        self._paces: dict[tuple[Hashable, str], Pace] = {}

    def __len__(self) -> int:
        return len(self._paces)

    def of(self, replica: Hashable, model: str, slots: int | None = None) -> Pace:
        """The pace of a model on a replica, a new one where there is none. `slots`: as far as known now."""
        pace = self._paces.get((replica, model))
        if pace is None:
            pace = self._paces[replica, model] = Pace(slots)
        pace.slots = slots
        return pace

    def keep(self, wanted: Iterable[tuple[Hashable, str]]) -> None:
        """Forgets all but these. Calls under way keep the paces that they hold."""
        wanted = set(wanted)
        self._paces = {key: pace for key, pace in self._paces.items() if key in wanted}
