"""How many tokens text has at one model, learned from what its engine reports. Plain state: no clock."""

from __future__ import annotations

from collections import OrderedDict

from backends.prompts.types import Prompt

DECAY = 0.98  # of what was seen, with each further prompt: about the last 50 count
START = 256.0  # tokens that the fixed rules weigh at first
SESSIONS = 8192  # conversations whose last prompt is remembered
BYTES_PER_TOKEN = 4.0  # until something was seen
LOW, HIGH = 0.1, 10.0  # of the factor


def estimated(chars: int, raw: int) -> int:
    """Tokens of `chars` characters that are `raw` bytes of UTF-8, before anything is learned.

    About the rules of `dialects.count` for prose, without a look at the text: each byte beyond one a character is half a token, and stands
    for half a character that is not ASCII.
    """
    beyond = raw - chars
    return max(1, (chars - beyond // 2) * 10 // 36 + beyond // 2)


class Learned:
    """`factor`: reported tokens a token estimated by the fixed rules. A long prompt counts for more than a short one.

    A conversation grows at its end, so the last report about it is truer than any mean: what is new is estimated, the rest is known.
    """

    __slots__ = ("_bytes", "_estimated", "_last", "_tokens", "_used")

    def __init__(self) -> None:
        self._tokens = self._estimated = START
        self._bytes, self._used = START * BYTES_PER_TOKEN, START  # bytes and tokens of text, for the size of a block
        self._last: OrderedDict[str, tuple[int, int]] = OrderedDict()  # a lock is not needed: only `told` changes it

    @property
    def factor(self) -> float:
        """Reported tokens a token estimated by the fixed rules."""
        return min(HIGH, max(LOW, self._tokens / self._estimated))

    @property
    def tokens_per_byte(self) -> float:
        """Of rendered text."""
        return self._used / self._bytes

    def tokens(self, estimate: int, media: int, session: str) -> int:
        """Tokens of a prompt, at least 1: `estimate` by the fixed rules and `media` besides."""
        factor = self._tokens / self._estimated
        if not LOW <= factor <= HIGH:
            factor = self.factor
        last = self._last.get(session) if session else None
        if last is not None and last[0] <= estimate:
            return max(1, last[1] + round((estimate - last[0]) * factor) + media)
        return max(1, round(estimate * factor) + media)

    def told(self, prompt: Prompt, tokens: int) -> None:
        """The engine counted `tokens` of this prompt. Media teach nothing: their share is a guess. O(1)."""
        estimate = prompt.estimate
        if estimate < 1 or tokens < 1 or prompt.media or not LOW < tokens / estimate < HIGH:
            return
        self._tokens = self._tokens * DECAY + tokens
        self._estimated = self._estimated * DECAY + estimate
        self._used = self._used * DECAY + tokens
        self._bytes = self._bytes * DECAY + prompt.bytes
        session, last = prompt.session, self._last
        if session:
            last[session] = estimate, tokens
            last.move_to_end(session)
            if len(last) > SESSIONS:
                last.popitem(last=False)
