"""A bounded memory of what was computed before. Safe in threads; one lock, held for dictionary operations only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """The entries used last whose weights together are at most `limit`. What alone weighs more than a quarter of it is not kept."""

    __slots__ = ("_items", "_lock", "hits", "limit", "misses", "weight")

    def __init__(self, limit: int) -> None:
        self.limit, self.weight, self.hits, self.misses = limit, 0, 0, 0
        self._items: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: K) -> V | None:
        """The entry, now the one used last; None when there is none."""
        with self._lock:
            found = self._items.get(key)
            if found is None:
                self.misses += 1
                return None
            self._items.move_to_end(key)
            self.hits += 1
            return found[0]

    def has(self, key: K) -> bool:
        """Whether it is there. Changes nothing."""
        return key in self._items

    def put(self, key: K, value: V, weight: int) -> None:
        """Keeps an entry and drops those used longest ago until all fit."""
        if weight * 4 > self.limit:
            return
        with self._lock:
            old = self._items.pop(key, None)
            self.weight += weight - (old[1] if old is not None else 0)
            self._items[key] = (value, weight)
            while self.weight > self.limit:
                _, (_, gone) = self._items.popitem(last=False)
                self.weight -= gone

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._items.clear()
            self.weight = 0
