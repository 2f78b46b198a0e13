"""How long a prefill takes: three numbers a model, learned from first tokens, and one speed a replica. Plain floats, no clock.

    seconds = speed_i * (b0 + b1 * u + b2 * u * (h + u / 2))

where `u` prompt tokens are computed on top of `h` cached ones: a fixed part, the linear layers, and attention over what came before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

Features = tuple[float, float, float]

KEEP = 0.999  # share of the old sums that a new observation leaves: about the last thousand count
SOLVED_EVERY, UNSOLVED_MAX = 64, 16  # observations that are not solved for: this part of all, and so many at most
FLOOR_SECONDS = 0.002  # no prefill is free: keeps ratios finite
PRIOR: Features = (0.01, 0.5, 0.05)  # seconds; per 10^4 tokens; per 10^8 token pairs: a 70B model on four accelerators, scaled as learned
_PRIOR_POINTS = ((200.0, 0.0), (4000.0, 0.0), (20000.0, 0.0))  # (u, h) of the pretended observations that stand for the prior
_SPEED_KEEP, _SPEED_PRIOR = 0.98, 0.2  # a replica's speed is a ratio of two decayed sums; the prior is in seconds of each
_SPEED_MIN, _SPEED_MAX = 0.1, 10.0
SLOW = 1.1  # times the usual seconds: less is no difference between machines


def features(u: float, h: float) -> Features:
    """What the time of a prefill of `u` tokens after `h` cached ones is linear in; scaled to be near one."""
    return (1.0, u * 1e-4, u * (h + u / 2) * 1e-8)


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


class Receipt:
    """One observation as it was learned, so that it can be corrected. Opaque to others."""

    __slots__ = ("number", "replica", "turn", "weight", "x", "y")

    def __init__(self, replica: int, x: Features, y: float, weight: float, number: int, turn: int) -> None:
        self.replica, self.x, self.y, self.weight, self.number, self.turn = replica, x, y, weight, number, turn


class PrefillModel:
    """Weighted least squares with forgetting, coefficients not below zero, held by a prior where data say nothing.

    Sums rather than a recursive inverse: a workload that shows only one length leaves two directions free, where a recursive filter with
    forgetting grows without bound; here the prior's shape, scaled to what was seen, decides them. The system is solved when the
    observations since the last time are a 64th of all, or 16: fewer change as good as nothing then.
    """

    __slots__ = (
        "_count",
        "_counts",
        "_cov",
        "_grown",
        "_here",
        "_rhs",
        "_seen",
        "_told",
        "_took",
        "_took_prior",
        "_unsolved",
        "b",
        "error",
        "slow",
        "speed",
    )

    def __init__(self, replicas: int) -> None:
        self.b: list[float] = list(PRIOR)
        self.speed = [1.0] * replicas  # relative: their mean over the replicas that are there is one
        self.slow: tuple[int, ...] = ()  # those that are SLOW
        self.error = [0.0] * replicas  # decayed mean of |seen - predicted|, seconds
        self._cov = [0.0] * 6  # 00 01 02 11 12 22
        self._rhs = [0.0] * 3
        self._took, self._took_prior = 0.0, 0.0  # decayed sums of weighted seconds seen and of the prior's prediction of them
        self._seen = [_SPEED_PRIOR] * replicas
        self._told = [_SPEED_PRIOR] * replicas
        self._here = [True] * replicas
        self._grown, self._unsolved = 1.0, 0  # weight of a new observation in the sums; those not solved for
        self._count, self._counts = 0, [0] * replicas  # observations, in all and of each replica

    def predict(self, u: float, h: float) -> float:
        """Seconds that `u` tokens after `h` cached ones take on a replica of speed one. Never below FLOOR_SECONDS."""
        b = self.b
        x = u * 1e-4
        return FLOOR_SECONDS + b[0] + b[1] * x + b[2] * x * (h + u / 2) * 1e-4

    def table(self, tokens: int, found: Collection[int], size: float) -> tuple[dict[int, int], dict[int, float]]:
        """Of a prompt of `tokens`, by how many of its blocks of `size` tokens are cached, for 0 and each number in `found`: the tokens
        cached, and the seconds (`predict`) of the others. An engine computes at least the last token."""
        b0, b1, b2 = self.b
        b0 += FLOOR_SECONDS
        x = tokens * 1e-4
        hits, seconds = {0: 0}, {0: b0 + b1 * x + b2 * x * (tokens / 2) * 1e-4}
        for blocks in found:
            if blocks:
                hit = int(blocks * size)
                if hit >= tokens:
                    hit = tokens - 1
                u = tokens - hit
                x = u * 1e-4
                hits[blocks], seconds[blocks] = hit, b0 + b1 * x + b2 * x * (hit + u / 2) * 1e-4
        return hits, seconds

    def learn(self, replica: int, x: Features, seconds: float) -> Receipt | None:
        """Takes in that work of features `x` (a sum over requests that were answered together) took `seconds`. Mutates; O(1).

        Returns what `correct` needs; None when the time is no prefill's (none at all, or ten minutes and more) and nothing was learned.
        """
        if not 0.0 < seconds < 600.0:
            return None
        b, speed = self.b, self.speed[replica]
        told = b[0] * x[0] + b[1] * x[1] + b[2] * x[2] + FLOOR_SECONDS
        self.error[replica] += 0.05 * (abs(seconds - speed * told) - self.error[replica])
        y = seconds / speed
        weight = 1.0 / (0.05 + told) ** 2  # errors count relative to the time, so that long prompts do not rule alone
        self._grown /= KEEP  # the new one counts for more rather than all the old ones for less
        self._take(x, y, weight * self._grown)
        self._seen[replica] = _SPEED_KEEP * self._seen[replica] + (1 - _SPEED_KEEP) * seconds
        self._told[replica] = _SPEED_KEEP * self._told[replica] + (1 - _SPEED_KEEP) * told
        self._count += 1
        self._counts[replica] += 1
        self._changed()
        return Receipt(replica, x, y, weight, self._count, self._counts[replica])

    def correct(self, receipt: Receipt, x: Features) -> None:
        """An observation's features were `x` in truth: as if it had been learned so. What has nearly faded stays. O(1)."""
        left = KEEP ** (self._count - receipt.number)
        if left < 0.05:
            return
        left *= self._grown
        self._take(receipt.x, receipt.y, -left * receipt.weight)
        self._take(x, receipt.y, left * receipt.weight)
        i, change = receipt.replica, _dot(self.b, x) - _dot(self.b, receipt.x)
        faded: float = _SPEED_KEEP ** (self._counts[i] - receipt.turn)
        self._told[i] = max(0.01 * _SPEED_PRIOR, self._told[i] + (1 - _SPEED_KEEP) * faded * change)
        receipt.x = x
        self._changed()

    def join(self, replica: int) -> None:
        """Another machine has this number, of which nothing is known; grows when it is the next number."""
        if replica == len(self.speed):
            self.speed.append(1.0)
            self.error.append(0.0)
            self._seen.append(_SPEED_PRIOR)
            self._told.append(_SPEED_PRIOR)
            self._here.append(True)
            self._counts.append(0)
        self.forget(replica)
        self._here[replica] = True

    def leave(self, replica: int) -> None:
        """The machine is gone: it no longer counts in what is usual."""
        self.forget(replica)
        self._here[replica] = False

    def forget(self, replica: int) -> None:
        """Another machine may stand there now: its speed starts anew."""
        self._seen[replica] = self._told[replica] = _SPEED_PRIOR
        self.speed[replica], self.error[replica] = 1.0, 0.0
        self.slow = tuple(i for i in self.slow if i != replica)
        self._counts[replica] += 1000  # what was seen before has faded from its speed

    def _take(self, x: Features, y: float, weight: float) -> None:
        cov, rhs = self._cov, self._rhs
        x0, x1, x2 = x
        w0, w1, w2 = weight * x0, weight * x1, weight * x2
        cov[0] += w0 * x0
        cov[1] += w0 * x1
        cov[2] += w0 * x2
        cov[3] += w1 * x1
        cov[4] += w1 * x2
        cov[5] += w2 * x2
        rhs[0] += w0 * y
        rhs[1] += w1 * y
        rhs[2] += w2 * y
        expected = PRIOR[0] * x0 + PRIOR[1] * x1 + PRIOR[2] * x2
        self._took += weight * expected * y
        self._took_prior += weight * expected * expected

    def _changed(self) -> None:
        """Solves where what came since the last time matters."""
        self._unsolved += 1
        if self._unsolved * SOLVED_EVERY < self._count and self._unsolved < UNSOLVED_MAX:
            return
        self._unsolved = 0
        self._cov = [v / self._grown for v in self._cov]
        self._rhs = [v / self._grown for v in self._rhs]
        self._took, self._took_prior = self._took / self._grown, self._took_prior / self._grown
        self._grown = 1.0
        self.b = self._solve()
        self._rate()

    def _rate(self) -> None:
        ratios = [s / t for s, t in zip(self._seen, self._told, strict=True)]
        here = [r for r, is_here in zip(ratios, self._here, strict=True) if is_here] or [1.0]
        mean = sum(here) / len(here)  # the common part belongs to b, or both could drift against each other
        self.speed = [min(_SPEED_MAX, max(_SPEED_MIN, r / mean)) for r in ratios]
        self.slow = tuple(i for i, s in enumerate(self.speed) if s > SLOW)

    def _solve(self) -> list[float]:
        cov, rhs = list(self._cov), list(self._rhs)
        scale = self._took / self._took_prior if self._took_prior > 1e-12 else 1.0
        for u, h in _PRIOR_POINTS:
            x = features(u, h)
            expected = scale * _dot(PRIOR, x)
            weight = 1.0 / (0.05 + expected) ** 2
            for k, v in enumerate((x[0] * x[0], x[0] * x[1], x[0] * x[2], x[1] * x[1], x[1] * x[2], x[2] * x[2])):
                cov[k] += weight * v
            for k in range(3):
                rhs[k] += weight * x[k] * expected
        for k in range(3):  # a little of the prior in every direction: never singular
            cov[(0, 3, 5)[k]] += 1e-3
            rhs[k] += 1e-3 * scale * PRIOR[k]
        return _not_negative(cov, rhs)


def _not_negative(cov: Sequence[float], rhs: Sequence[float]) -> list[float]:
    """Solves the 3x3 symmetric system; a coefficient that would be negative is set to zero and the rest solved again."""
    full = [[cov[0], cov[1], cov[2]], [cov[1], cov[3], cov[4]], [cov[2], cov[4], cov[5]]]
    free = [0, 1, 2]
    while True:
        found = _gauss([[full[i][j] for j in free] for i in free], [rhs[i] for i in free])
        worst = min(range(len(free)), key=found.__getitem__)
        if found[worst] >= 0 or len(free) == 1:
            out = [0.0, 0.0, 0.0]
            for i, v in zip(free, found, strict=True):
                out[i] = max(0.0, v)
            return out
        free.pop(worst)


def _gauss(m: list[list[float]], v: list[float]) -> list[float]:
    """Solves a symmetric positive definite system in place: no pivoting is needed."""
    n = len(v)
    for i in range(n):
        for j in range(i + 1, n):
            f = m[j][i] / m[i][i]
            for k in range(i, n):
                m[j][k] -= f * m[i][k]
            v[j] -= f * v[i]
    for i in reversed(range(n)):
        v[i] = (v[i] - sum(m[i][k] * v[k] for k in range(i + 1, n))) / m[i][i]
    return v
