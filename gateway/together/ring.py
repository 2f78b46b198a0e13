"""Memory that the workers of one parent share: for each a ring that it alone writes and all others read. No lock, and nothing to clean up.

The memory has no name: the parent makes it and hands it to its workers as a file descriptor, so it goes with the last of them, however
they end. A worker that dies is seen by its process being gone; its successor takes the slot under another name.

    region   slots x (header, data); the header 8 numbers of 64 bits, in the byte order of the machine
    header   name (0: nobody), process, written, reserved, start; the three last count bytes since the memory was made
    record   length and CRC-32 of position and payload (4 bytes each), payload; it goes on at the beginning of the data where that ends

A writer first says how far it will write (`reserved`), writes, then says how far it has written. A reader copies what is written and
looks at `reserved` afterwards: unless that is more than a ring ahead of where it began, no byte of the copy has been overwritten. The CRC
is for processors that show another's writes in another order: a record that does not fit its CRC is read again later.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Generator, Iterator

DATA = 1 << 20  # bytes of a ring
LATER = 3  # times that a record is read again before it is given up
_HEADER = 64
_NAME, _PID, _WRITTEN, _RESERVED, _START = range(5)
_RECORD = struct.Struct("=II")
_POSITION = struct.Struct("=Q")


class Region:
    """The memory of all slots, mapped. `close` it before the process ends in order to have no view left open."""

    def __init__(self, fd: int, slots: int, data: int = DATA) -> None:
        self.fd, self.slots, self.data = fd, slots, data
        self._map = mmap.mmap(fd, slots * (_HEADER + data))
        self._bytes = memoryview(self._map)

    @classmethod
    def create(cls, slots: int, data: int = DATA) -> Region:
        """Memory for so many workers, all zeros. Raises OSError when there is none."""
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("pointsman")
        else:  # a file that has no name any more: the same but for the disk behind it
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, slots * (_HEADER + data))
        return cls(fd, slots, data)

    def header(self, slot: int) -> memoryview:
        """The eight numbers of a slot."""
        at = slot * (_HEADER + self.data)
        return self._bytes[at : at + _HEADER].cast("Q")

    def ring(self, slot: int) -> memoryview:
        """The data of a slot."""
        at = slot * (_HEADER + self.data) + _HEADER
        return self._bytes[at : at + self.data]

    def close(self) -> None:
        """Gives the memory back; writers and readers of it are closed before. Idempotent."""
        if not self._map.closed:
            self._bytes.release()
            self._map.close()
            os.close(self.fd)


class Writer:
    """The only writer of a slot. `name` is not 0 and unlike any other's."""

    def __init__(self, region: Region, slot: int, name: int, pid: int) -> None:
        self._header, self._data = region.header(slot), region.ring(slot)
        self._at = self._header[_WRITTEN]
        self._header[_NAME] = 0
        self._header[_RESERVED] = self._header[_START] = self._at
        self._header[_PID] = pid
        self._header[_NAME] = name

    def put(self, payload: bytes) -> bool:
        """Writes one record; False when it is longer than half the ring. Never blocks: who reads too slowly misses something."""
        if len(payload) + _RECORD.size > len(self._data) // 2:
            return False
        for _ in self.steps(payload):
            pass
        return True

    def steps(self, payload: bytes) -> Iterator[None]:
        """`put` piece by piece: between two steps others may look at the memory."""
        crc = zlib.crc32(payload, zlib.crc32(_POSITION.pack(self._at)))
        record = _RECORD.pack(len(payload), crc) + payload
        at, size = self._at, len(self._data)
        self._header[_RESERVED] = at + len(record)
        yield
        begin = at % size
        first = min(len(record), size - begin)
        self._data[begin : begin + first] = record[:first]
        yield
        if first < len(record):
            self._data[: len(record) - first] = record[first:]
            yield
        self._at = at + len(record)
        self._header[_WRITTEN] = self._at

    def close(self) -> None:
        """Nobody writes here any more."""
        self._header[_NAME] = 0
        self._header.release()
        self._data.release()


class Reader:
    """One reader of a slot, whoever writes it. `name` and `pid` are those of the writer that `read` last saw, 0 for none."""

    def __init__(self, region: Region, slot: int) -> None:
        self._header, self._data = region.header(slot), region.ring(slot)
        self._at = self._later = 0
        self._new = True
        self.name = self.pid = 0

    def look(self) -> bool:
        """Whether the writer is another one than before. Reading begins with its first record then, but with the next one where the
        writer was there before us: what it said long ago would look like news."""
        name, new = self._header[_NAME], self._new
        self._new = False
        if name == self.name:
            return False
        self.name, self.pid = name, self._header[_PID]
        self._at, self._later = self._header[_WRITTEN if new else _START], 0
        return True

    def read(self) -> tuple[list[bytes], bool]:
        """The records since the last call, in order, and whether some were missed; reading goes on behind those. Never blocks."""
        steps = self.steps()
        while True:
            try:
                next(steps)
            except StopIteration as end:
                found: tuple[list[bytes], bool] = end.value
                return found

    def steps(self) -> Generator[None, None, tuple[list[bytes], bool]]:
        """`read` piece by piece: between two steps the writer may go on."""
        size, at = len(self._data), self._at
        written = self._header[_WRITTEN]
        if written == at:
            return [], False
        if not at < written <= at + size:
            return self._skip()
        yield
        begin, length = at % size, written - at
        first = min(length, size - begin)
        copy = bytes(self._data[begin : begin + first])
        yield
        copy += self._data[: length - first]
        yield
        if self._header[_RESERVED] > at + size:
            return self._skip()
        return self._parse(copy)

    def _skip(self) -> tuple[list[bytes], bool]:
        self._at, self._later = self._header[_WRITTEN], 0
        return [], True

    def _parse(self, copy: bytes) -> tuple[list[bytes], bool]:
        found: list[bytes] = []
        at = 0
        while at + _RECORD.size <= len(copy):
            length, crc = _RECORD.unpack_from(copy, at)
            payload = copy[at + _RECORD.size : at + _RECORD.size + length]
            if zlib.crc32(payload, zlib.crc32(_POSITION.pack(self._at))) != crc:
                break
            found.append(payload)
            at += _RECORD.size + length
            self._at += _RECORD.size + length
            self._later = 0
        if at == len(copy):
            return found, False
        self._later += 1
        return (found, self._skip()[1]) if self._later > LATER else (found, False)

    def close(self) -> None:
        """Lets go of the memory."""
        self._header.release()
        self._data.release()
