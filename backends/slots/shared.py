"""What the replicas of one backend share: the store, what was learned of speed, the groups that are computing, and the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from backends.slots.store import MAX_TEXT, Store
from backends.slots.table import KEEP, SMALL, Slot, Speed, common
from backends.slots.volatile import Watch

if TYPE_CHECKING:
    from backends.slots.group import Group
    from backends.slots.link import SlotLink

STRIKES = 3  # restores in a row that the engine made nothing of: then this model's KV cannot be moved


class Figures(msgspec.Struct):
    """Counts since the start. `primes`: prefixes computed for several, `waited`: requests that waited for one. `tokens_saved`: tokens
    that restored KV spared, as the engine counted them. `failed`: saves, restores and primes that did not work; the request went on
    without. `bytes_*`: what the store holds now."""

    primes: int = 0
    saves: int = 0
    restores: int = 0
    waited: int = 0
    tokens_saved: int = 0
    failed: int = 0
    entries: int = 0
    bytes_memory: int = 0
    bytes_disk: int = 0
    lasting: int = 0  # entries that outlive the gateway; `bytes_disk` is then that of the whole folder
    moving: bool = True  # false: this model's KV turned out not to be movable


class Shared:
    """One a backend."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.speed = Speed()
        self.groups: set[Group] = set()
        self.links: set[SlotLink] = set()
        self.counts = Figures()
        self.strikes = 0
        self.watch = Watch()
        learned = store.lasting.learned if store.lasting is not None else None
        if learned is not None:
            self.speed.recall(learned.prefill, learned.ratio, learned.density)

    @property
    def moves(self) -> bool:
        """Whether restoring has not proved useless: models with a sliding window or a recurrent state cannot go on in the middle of
        what was saved."""
        return self.strikes < STRIKES

    def losing(self, slot: Slot, kept: int) -> bool:
        """Whether a slot of which `kept` bytes stay should be saved first: what it alone holds would take long to compute again."""
        text = slot.text
        if kept >= KEEP * len(text) or not self.speed.pays(len(text) - kept):
            return False
        held = self.store.find(text, self.speed.ratio)[1]
        others = (each.text for link in self.links for each in link.table.slots if each is not slot)
        held = max(held, *(common(text, other) for other in others), 0)
        return len(text) - held >= SMALL and self.speed.pays(len(text) - held)

    def lasts(self, slot: Slot) -> bool:
        """Whether what a slot holds should be saved now, to outlive the engine and the gateway."""
        store, speed = self.store, self.speed
        if store.lasting is None or not self.moves or speed.bytes(len(slot.text), store.budget[True]) > store.budget[True]:
            return False
        return len(slot.text) <= MAX_TEXT and store.lasting.wants(store.kept.values(), slot.text, slot.private, speed)

    def judged(self, cached: int, expected: float) -> None:
        """A request for which `expected` tokens were restored found `cached`."""
        if cached < expected / 2:
            self.strikes += self.moves
        else:
            self.strikes = 0
            self.counts.tokens_saved += cached

    def figures(self) -> Figures:
        """The counts as they are now."""
        store = self.store
        lasting, failed, disk = store.lasting, self.counts.failed, store.bytes[False]
        if lasting is not None:
            failed, disk = failed + lasting.failed, lasting.disk.bytes
        entries, last = len(store.kept), sum(entry.card is not None for entry in store.kept.values())
        return msgspec.structs.replace(
            self.counts, entries=entries, lasting=last, bytes_memory=store.bytes[True], bytes_disk=disk, failed=failed, moving=self.moves
        )
