"""Which engines are in memory: pure decisions over plain state. No clock, no process, no loop: time comes as monotonic seconds.

Whoever owns the engines tells what happens (`demand`, `loaded`, `gone`, ...) and does what `step` returns. A model goes round

    absent -> loading -> resident -> closing -> stopping -> absent

`closing` means: no new call is let through any more; once `closed` says that none is under way, it is stopped, else it is opened again
(`drain`: it stays shut until its last call has ended). So nothing that computes an answer is ever stopped to make room. What counts
against the budget is everything between `loading` and the word that the process is gone.

Room is made by cost: seconds that a reload takes times how much the model was used lately, for each byte (the idea of GreedyDual-Size: Cao
and Irani, "Cost-Aware WWW Proxy Caching Algorithms", 1997; with a fading count in place of its inflation). Who waits longest
is served first; who has waited for `patience` gets room from models that are busy without end, too, by draining them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.residency_types import HELD, Action, Entry, Model, Rules, size


class Residency:
    """The models of one gateway and its budget in bytes (None: no limit). Every method is synchronous; all but `step` only take note."""

    def __init__(self, budget: int | None = None, rules: Rules | None = None) -> None:
        self.budget, self.rules = budget, rules or Rules()
        self.entries: dict[str, Entry] = {}
        self.evictions: dict[tuple[str, str], int] = {}  # (model, "idle" | "room" | "asked" | "unwanted") -> times

    # --- what is known
    @property
    def held(self) -> int:
        """Bytes that count against the budget."""
        return sum(e.bytes for e in self.entries.values() if e.state in HELD)

    def queue(self) -> list[Entry]:
        """Who waits for memory, in the order in which they get it."""
        return sorted((e for e in self.entries.values() if e.state == "absent" and e.wanted), key=lambda e: (e.turn, e.model.name))

    # --- what happens
    def put(self, model: Model, now: float) -> None:
        """Configuration knows this model; it may have been known before, with other settings."""
        entry = self.entries.get(model.name)
        if entry is None:
            self.entries[model.name] = Entry(model, now)
            return
        changed = entry.model.bytes != model.bytes
        entry.model = model
        if entry.removed or changed:  # another engine under its name: what was measured is of the old one
            entry.outdated = True
            if entry.state not in HELD:
                entry.become("absent", now)
        if entry.removed:
            entry.removed, entry.ordered = False, model.start or model.plain

    def remove(self, name: str, now: float) -> None:
        """Configuration does not know it any more, or its engine is replaced: its process is being stopped by whoever says so."""
        entry = self.entries.get(name)
        if entry is None:
            return
        entry.removed, entry.ordered = True, False
        if entry.state in HELD:
            entry.become("stopping", now)
        else:
            entry.become("absent", now)

    def forget(self, names: Iterable[str]) -> None:
        """Drops what was removed and takes no memory any more."""
        for name in names:
            entry = self.entries.get(name)
            if entry is not None and entry.removed and entry.state not in HELD:
                del self.entries[name]

    def demand(self, name: str, waiting: int, since: float, busy: int, calls: int, now: float) -> None:
        """How many calls wait for it (the first one since `since`) and are under way just now, and how many began since the last time."""
        entry = self.entries[name]
        if waiting and not entry.waiting:
            entry.wait_since = since
        elif waiting:
            entry.wait_since = min(since, entry.wait_since) if entry.state == "absent" else since
        if busy or calls or entry.busy:
            entry.used = now
        if calls:
            entry.use(calls, now)
        entry.waiting, entry.busy = waiting, busy

    def keep(self, name: str, seconds: float) -> None:
        """A request wants it to stay for `seconds` after its last call (infinite: as long as there is room)."""
        if name in self.entries:
            self.entries[name].keep = seconds

    def loaded(self, name: str, now: float) -> None:
        """Its engine is ready."""
        entry = self.entries[name]
        if entry.state != "loading":
            return
        if not entry.restarting:
            took = max(0.01, now - entry.since)
            entry.load_seconds = took if entry.load_seconds is None else 0.5 * (entry.load_seconds + took)
            entry.loads += 1
        entry.restarting = entry.ordered = False
        entry.become("resident", now)
        entry.ready_at = entry.used = now

    def measured(self, name: str, size: int) -> None:
        """Its processes hold so many bytes now."""
        entry = self.entries.get(name)
        if entry is not None:
            entry.seen = size
            if entry.state in ("resident", "closing"):
                entry.peak = max(entry.peak, size)

    def died(self, name: str, now: float) -> None:
        """Its engine has ended by itself and is being started again."""
        entry = self.entries[name]
        if entry.state in ("resident", "closing", "loading"):
            entry.restarting = True
            entry.become("loading", now)

    def failed(self, name: str, why: str, now: float) -> None:
        """Its engine cannot be started. One that is always there is left to whoever starts it."""
        entry = self.entries[name]
        if entry.state in HELD and not entry.model.plain:
            entry.become("failed", now, why or "it could not be started")
            entry.ordered = False

    def gone(self, name: str, now: float) -> None:
        """Its processes have ended and their memory is free."""
        entry = self.entries.get(name)
        if entry is not None and entry.state in HELD:
            entry.become("absent", now)

    def closed(self, name: str, busy: int, now: float) -> None:
        """No new call reaches it any more, and so many are under way."""
        entry = self.entries[name]
        if entry.state == "closing":
            entry.acked, entry.busy = True, busy

    def order(self, name: str, now: float) -> None:
        """Somebody wants it loaded without a call. KeyError: no such model."""
        entry = self.entries[name]
        if entry.state in ("refused", "failed"):
            entry.become("absent", now)
        entry.leaving = False
        if entry.state in ("absent", "stopping", "closing") and not entry.ordered:
            entry.ordered, entry.asked = True, now

    def dismiss(self, name: str) -> None:
        """Somebody wants it out of memory, once its calls have ended. KeyError: no such model."""
        entry = self.entries[name]
        entry.ordered, entry.leaving = False, entry.state in ("loading", "resident", "closing")

    # --- what follows
    def step(self, now: float) -> list[Action]:
        """What is to be done now; every action counts as begun. Call it after whatever happened, and at times of its own (idleness has
        no event). 1. ends of closing; 2. who goes by time, by wish or because memory was underestimated; 3. who can never fit; 4. who is
        loaded, and who makes room for it."""
        out: list[Action] = []
        for entry in self.entries.values():
            if entry.state == "closing" and entry.acked:
                self._end_of_closing(entry, now, out)
        for entry in self.entries.values():
            self._expire(entry, now, out)
        self._shrink(now, out)
        self._judge(now, out)
        self._place(now, out)
        return out

    def _end_of_closing(self, entry: Entry, now: float, out: list[Action]) -> None:
        name = entry.model.name
        if not entry.busy:
            entry.become("stopping", now)
            out.append(Action("stop", name))
        elif not entry.drain or (entry.for_whom and not self._waits(entry.for_whom)):
            entry.ordered = False
            entry.become("resident", now)
            out.append(Action("open", name))

    def _waits(self, name: str) -> bool:
        entry = self.entries.get(name)
        return entry is not None and entry.state == "absent" and entry.wanted

    def _expire(self, entry: Entry, now: float, out: list[Action]) -> None:
        name = entry.model.name
        if entry.state == "resident":
            due = entry.until()
            if entry.leaving:
                self._close(entry, "asked", now, out, drain=True)
            elif due is not None and now >= due:
                self._close(entry, "idle", now, out)
        elif entry.state == "loading" and (entry.leaving or self._unwanted(entry)) and not entry.busy:
            self._count(name, "asked" if entry.leaving else "unwanted")
            entry.become("stopping", now)
            out.append(Action("stop", name))
        elif entry.state == "failed" and now - entry.since >= self.rules.rest:
            entry.become("absent", now)
            out.append(Action("allow", name))

    def _unwanted(self, entry: Entry) -> bool:
        """Whether it died while nobody needed it: then it is simply not there any more."""
        stays = entry.model.pinned or entry.model.plain or entry.wanted
        return entry.restarting and not stays

    def _shrink(self, now: float, out: list[Action]) -> None:
        """More is held than was foreseen: the cheapest that are idle go."""
        if self.budget is not None:
            over = self.held - self.budget - sum(e.bytes for e in self.entries.values() if e.state in ("closing", "stopping"))
            for entry in self._enough(over, self._idle(now), now) if over > 0 else ():
                self._close(entry, "room", now, out)

    def _judge(self, now: float, out: list[Action]) -> None:
        """Who can never be loaded beside what is pinned is told so, until that is otherwise."""
        for entry in self.entries.values():
            if entry.state == "absent" and entry.wanted and not self._fits(entry):
                why = f"it needs {size(entry.bytes)} and the budget is {size(self.budget or 0)}"
                fixed = self._pinned(entry)
                entry.become("refused", now, f"{why}, of which {size(fixed)} are pinned" if fixed else why)
                out.append(Action("refuse", entry.model.name, entry.reason))
            elif entry.state == "refused" and self._fits(entry):
                entry.become("absent", now)
                out.append(Action("allow", entry.model.name))

    def _pinned(self, beside: Entry) -> int:
        stay = (e for e in self.entries.values() if e is not beside and e.state in HELD and (e.model.pinned or e.model.plain))
        return sum(e.bytes for e in stay if not e.leaving and not e.removed)

    def _fits(self, entry: Entry) -> bool:
        return self.budget is None or entry.bytes + self._pinned(entry) <= self.budget

    def _place(self, now: float, out: list[Action]) -> None:
        """Loads in order of waiting. Only the first that lacks room has some made; a later one may use what that one will not need, or,
        while that one is still patient, what is free."""
        loading = sum(e.state == "loading" and not e.model.plain for e in self.entries.values())
        spare: int | None = None  # bytes that are left over once the first one without room is served
        overtake = True
        for entry in self.queue():
            if loading >= self.rules.loads and not entry.model.plain:
                continue
            room = None if self.budget is None else self.budget - self.held
            fits = room is None or entry.bytes <= room
            if fits and (spare is None or entry.bytes <= spare or overtake):
                entry.become("loading", now)
                out.append(Action("load", entry.model.name))
                loading += not entry.model.plain
                spare = None if spare is None else spare - entry.bytes
            elif spare is None and room is not None:
                overtake = now - entry.turn < self.rules.patience
                spare = room + self._make_room(entry, room, now, out) - entry.bytes

    def _make_room(self, entry: Entry, room: int, now: float, out: list[Action]) -> int:
        """Closes what has to go for `entry`; the bytes that will come free."""
        coming = sum(e.bytes for e in self.entries.values() if e.state in ("closing", "stopping"))
        need = entry.bytes - room - coming
        if need <= 0:
            return coming
        victims = self._enough(need, self._idle(now), now)
        drains: list[Entry] = []
        if not victims and now - entry.turn >= self.rules.patience:
            idle = self._idle(now)
            drains = self._enough(need - sum(e.bytes for e in idle), self._busy(now), now)
            victims = idle if drains else []
        for victim in victims:
            self._close(victim, "room", now, out)
        for victim in drains:
            self._close(victim, "room", now, out, drain=True, for_whom=entry.model.name)
        return coming + sum(e.bytes for e in (*victims, *drains))

    def _idle(self, now: float) -> list[Entry]:
        """Who may go for another: nobody needs it just now, it is not pinned, and it has been there for a while."""
        return [e for e in self._stayed(now) if not e.busy and not e.waiting]

    def _busy(self, now: float) -> list[Entry]:
        return [e for e in self._stayed(now) if e.busy or e.waiting]

    def _stayed(self, now: float) -> list[Entry]:
        rules = self.rules
        return [
            e for e in self.entries.values()
            if e.state == "resident" and not e.model.pinned and not e.model.plain
            and now - e.ready_at >= min(max(e.reload, rules.least), rules.most)
        ]  # fmt: skip

    def _enough(self, need: int, among: Sequence[Entry], now: float) -> list[Entry]:
        """The least valuable that free `need` bytes together; none where all of them would not."""
        chosen: list[Entry] = []
        for entry in sorted(among, key=lambda e: (e.worth(now), e.used, e.model.name)):
            if need > 0:
                chosen.append(entry)
                need -= entry.bytes
        if need > 0:
            return []
        for entry in reversed(chosen):  # a large one that came last may have made others unnecessary
            if need + entry.bytes <= 0:
                chosen.remove(entry)
                need += entry.bytes
        return chosen

    def _close(self, entry: Entry, why: str, now: float, out: list[Action], *, drain: bool = False, for_whom: str = "") -> None:
        self._count(entry.model.name, why)
        entry.become("closing", now)
        entry.drain, entry.for_whom = drain, for_whom
        out.append(Action("close", entry.model.name))

    def _count(self, name: str, why: str) -> None:
        key = (name, why)
        self.evictions[key] = self.evictions.get(key, 0) + 1
