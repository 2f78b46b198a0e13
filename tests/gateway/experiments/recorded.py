"""Made-up records of an experiment, their file, and the ledger that they must give."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from gateway.experiments.analyst import Analyst, Done, Order
from gateway.experiments.folded import Folded
from gateway.experiments.plain import Packed, together
from gateway.experiments.tables import Tables
from gateway.experiments.words import Feedback, unit_of
from routing.experiments.ledger import Ledger
from routing.experiments.words import BEFORE, Block, Design, Metric, Seen

LIKED = "feedback:liked"
DESIGN = Design("e", "r", ("a", "b"), (1.0, 1.0), least=20, planned=400, metrics={LIKED: Metric(LIKED, "boolean", "higher", "liked")})
NOW = 10_000.0


def units(n: int) -> int:
    return unit_of("t", b"user %d" % n)


def made(seed: int, count: int, *, slow: float = 1.0, users: int = 300) -> list[Seen]:
    """Requests of users in two arms, `b` slower by a factor; some have history."""
    draw, out = random.Random(seed), []
    for n in range(count):
        user = draw.randrange(users)
        arm = BEFORE if n < count // 5 and user % 2 else "ab"[user % 2 if user % 7 else user // 7 % 2]
        seconds = draw.lognormvariate(0, 0.3) * (slow if arm == "b" else 1.0)
        out.append(Seen(float(n), "e", 0, arm, units(user), "t", f"req-{seed}-{n}", f"chatcmpl-{seed}-{n}", seconds, cost=0.25))
    return out


def voices(seen: Iterable[Seen], every: int) -> list[Feedback]:
    return [
        Feedback(
            one.unix + 1, "t", "liked", "boolean", float(n % 2), response=one.response if n % 4 else one.request, id=f"fb_{one.request}"
        )
        for n, one in enumerate(seen)
        if n % every == 0
    ]


def write(tables: Tables, seen: list[Seen], fed: Iterable[Feedback] = ()) -> None:
    with tables.transaction():
        for at in range(0, len(seen), 100):
            tables.add_chunk(seen[at : at + 100])
        for item in fed:
            tables.add_feedback(item)


def write_blocks(tables: Tables, seen: list[Seen]) -> None:
    """The same as plain requests that were not refused, which these are, in blocks of 50 and rows of two."""
    packed = msgspec.msgpack.Encoder()
    bodies = []
    for at in range(0, len(seen), 50):
        part = seen[at : at + 50]
        kinds = [*dict.fromkeys((one.experiment, one.epoch, one.arm, one.tenant) for one in part)]
        block = Block(
            kinds, [kinds.index((one.experiment, one.epoch, one.arm, one.tenant)) for one in part], [one.unit for one in part],
            [one.request.encode() for one in part], [one.response.encode() for one in part], [one.unix for one in part],
            [one.seconds for one in part], [], [], [one.output for one in part], [one.cost for one in part],
        )  # fmt: skip
        bodies.append(Packed(len(part), part[-1].unix, packed.encode(block)))
    with tables.transaction():
        for row in together(bodies, 100):
            tables.add_blocks(row.unix, row.requests, row.body)


@contextmanager
def opened(path: Path) -> Iterator[Tables]:
    with closing(Tables(str(path))) as tables:
        yield tables


def direct(design: Design, seen: Iterable[Seen], fed: Iterable[Feedback]) -> Ledger:
    """The ledger without a file."""
    ledger, of = Ledger(design), dict[str, Seen]()
    for one in seen:
        ledger.take(one)
        of[one.request] = of[one.response] = one
    for item in fed:
        about = of[item.response]
        if item.value is not None:
            ledger.feedback(about.unit, item.name, item.value, before=about.arm == BEFORE)
    return ledger


def same(one: Ledger, other: Ledger) -> bool:
    return one.dump() == other.dump() and sorted(one.rows()) == sorted(other.rows())


def of_file(path: Path, design: Design = DESIGN) -> Ledger:
    with opened(path) as tables:
        found = Folded(tables).ledger(design.name)
    assert found is not None
    return Ledger.load(design, *found)


def looked(tables: Tables, design: Design, *, analyst: Analyst | None = None) -> Analyst:
    analyst = analyst or Analyst(tables, lambda: NOW)
    assert analyst.obey(Order((design,), number=1)) == Done(1)
    return analyst


def rows(tables: Tables, table: str) -> int:
    found: int = tables.db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
    return found
