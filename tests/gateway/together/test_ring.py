"""The ring: whatever the writer and a reader do in between each other, what is read is what was written, in order, or said to be missed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.together.ring import Reader, Region, Writer

SMALL = 256


@contextmanager
def region(slots: int = 1, data: int = SMALL) -> Iterator[Region]:
    made = Region.create(slots, data)
    try:
        yield made
    finally:
        made.close()
        made.close()


@contextmanager
def ring(data: int = SMALL) -> Iterator[tuple[Writer, Reader]]:
    with region(1, data) as shared:
        writer, reader = Writer(shared, 0, 7, 1), Reader(shared, 0)
        assert reader.look() and (reader.name, reader.pid) == (7, 1) and not reader.look()
        yield writer, reader
        writer.close()
        reader.close()


def test_what_is_written_is_read_once_in_order() -> None:
    with ring() as (writer, reader):
        assert reader.read() == ([], False)
        for payload in (b"a", b"", b"ccc"):
            assert writer.put(payload)
        assert reader.read() == ([b"a", b"", b"ccc"], False)
        assert reader.read() == ([], False)
        for k in range(100):  # around the end many times
            assert writer.put(b"%d" % k * 20)
            assert reader.read() == ([b"%d" % k * 20], False)
        assert not writer.put(b"x" * (SMALL // 2))
        assert reader.read() == ([], False)


def test_who_reads_too_slowly_is_told_and_goes_on_with_what_is_new() -> None:
    with ring() as (writer, reader):
        for _ in range(10):
            writer.put(b"x" * 100)
        assert reader.read() == ([], True)
        writer.put(b"new")
        assert reader.read() == ([b"new"], False)


def test_what_was_torn_is_read_again_and_given_up_after_a_while() -> None:
    with ring() as (writer, reader):
        writer.put(b"good")
        writer.put(b"torn")
        shared = writer._data
        at = 8 + 4 + 8
        right = shared[at]
        shared[at] ^= 1
        assert reader.read() == ([b"good"], False)
        assert reader.read() == ([], False)
        shared[at] = right
        assert reader.read() == ([b"torn"], False)
        writer.put(b"never")
        shared[at + 12] ^= 1
        assert [reader.read() for _ in range(4)] == [([], False)] * 3 + [([], True)]
        writer.put(b"after")
        assert reader.read() == ([b"after"], False)


def test_a_successor_takes_the_slot_from_its_own_beginning() -> None:
    with region() as shared:
        first, reader = Writer(shared, 0, 7, 1), Reader(shared, 0)
        reader.look()
        first.put(b"old")
        for _ in first.steps(b"torn by its death"):
            break
        second = Writer(shared, 0, 8, 2)
        second.put(b"new")
        assert reader.look() and (reader.name, reader.pid) == (8, 2)
        assert reader.read() == ([b"new"], False)
        second.close()
        assert reader.look() and reader.name == 0
        first._header.release()
        first._data.release()
        reader.close()


def test_who_comes_late_hears_what_is_said_from_now_on() -> None:
    with region() as shared:
        early, writer, late = Reader(shared, 0), Writer(shared, 0, 7, 1), Reader(shared, 0)
        assert early.look()
        writer.put(b"before")
        assert late.look()
        writer.put(b"after")
        assert early.read() == ([b"before", b"after"], False) and late.read() == ([b"after"], False)
        waits = Reader(shared, 0)
        for end in (early, late, waits, writer):
            end.close()


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_any_interleaving_gives_what_was_written_or_says_that_some_is_missed(data: st.DataObject) -> None:
    payloads = data.draw(st.lists(st.binary(max_size=90), max_size=25))
    with ring() as (writer, reader):
        done = 0  # written whole
        gap = 0  # the first that may still come
        for payload in payloads:
            writing, reading = writer.steps(payload), None
            while True:
                if reading is not None and data.draw(st.booleans()):
                    try:
                        next(reading)
                    except StopIteration as end:
                        reading = None
                        found, missed = end.value
                        for one in found:  # each is the next one after the last, or after what was missed
                            assert payloads[gap] == one
                            gap += 1
                        if missed:
                            gap = reader_position(reader, payloads)
                    continue
                if reading is None and data.draw(st.booleans()):
                    reading = reader.steps()
                    continue
                try:
                    next(writing)
                except StopIteration:
                    break
            done += 1
            if reading is not None:
                reading.close()
        found, missed = reader.read()
        assert missed or found == payloads[gap:]


def reader_position(reader: Reader, payloads: list[bytes]) -> int:
    """How many records end before where the reader stands: always a border between two."""
    at = 0
    for k, payload in enumerate(payloads):
        if at == reader._at:
            return k
        at += 8 + len(payload)
    assert at == reader._at
    return len(payloads)


WRITER = """
import os, sys
from gateway.together.ring import Region, Writer
fd, slot, count = map(int, sys.argv[1:])
writer = Writer(Region(fd, 3, 1 << 14), slot, slot + 100, os.getpid())
sys.stdin.read(1)
for k in range(count):
    writer.put(b"%d.%d" % (slot, k) * (k % 40))
sys.stdout.write("done")
sys.stdout.flush()
sys.stdin.read(1)
"""


def test_processes_read_each_other_at_full_speed() -> None:
    """Two writers that never wait, this reader beside them: no record is ever anything but what was written, and the order holds."""
    root = Path(__file__).parents[3]
    with region(3, 1 << 14) as shared:
        os.set_inheritable(shared.fd, True)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(shared.fd), str(slot), "20000"],
                pass_fds=[shared.fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root,
            )
            for slot in (0, 1)
        ]  # fmt: skip
        readers = [Reader(shared, slot) for slot in (0, 1)]
        while not all([reader.look() or reader.name for reader in readers]):
            assert all(p.poll() is None for p in processes)
        for p in processes:
            assert p.stdin is not None
            p.stdin.write(b"g")
            p.stdin.flush()
        last, count, missed = [-1, -1], [0, 0], [0, 0]
        ends = [os.dup(p.stdout.fileno()) for p in processes if p.stdout is not None]
        os.set_blocking(ends[0], False)
        os.set_blocking(ends[1], False)
        over = [False, False]
        while not all(over):
            for i, reader in enumerate(readers):
                over[i] = over[i] or _said(ends[i])
                records, lost = reader.read()
                missed[i] += lost
                for record in records:
                    if record:
                        k = _number(record, i)
                        assert k > last[i] and record == b"%d.%d" % (i, k) * (k % 40)
                        last[i] = k
                    count[i] += 1
        for i, reader in enumerate(readers):
            records, lost = reader.read()
            assert lost or not records or records[-1] == b"%d.%d" % (i, 19_999) * (19_999 % 40)
            reader.close()
            assert count[i] + len(records) == 20_000 or missed[i] or lost
        for p, end in zip(processes, ends, strict=True):
            os.close(end)
            p.kill()
            p.communicate()


def _number(record: bytes, slot: int) -> int:
    """The k in `slot.k` repeated k % 40 times."""
    for length in range(1, 6):
        text = record[2 : 2 + length]
        if text.isdigit() and record == b"%d.%s" % (slot, text) * (int(text) % 40):
            return int(text)
    raise AssertionError(record)


def _said(fd: int) -> bool:
    try:
        return bool(os.read(fd, 16))
    except BlockingIOError:
        return False


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the other way is what is used here anyway")
def test_without_memfd_a_file_without_a_name_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with ring() as (writer, reader):
        writer.put(b"x")
        assert reader.read() == ([b"x"], False)
