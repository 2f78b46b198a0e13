"""KV that outlives the gateway, as files: what is there is what was written, whoever crashed, whatever changed, however many write."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from backends.slots import disk as module
from backends.slots import files
from backends.slots.disk import Busy, Card, Disk
from tests.backends.slots.crash import BUDGET, OF, kv, put

ROOT = Path(__file__).parents[3]


def whole(folder: Path) -> list[Card]:
    """Opens the folder as the next process would; all that it lists can be fetched and is what was written, nothing else lies there."""
    disk = Disk.open(folder, BUDGET, 0.0)
    cards = disk.cards(OF.hex(), 100)
    target = folder / "target"
    for each in cards:
        assert disk.fetch(each, target, 1.0)
        assert target.read_bytes() == kv(each.text)
    names = {f.name for f in disk.folder.iterdir()}
    assert names == {"lock"} | {f"{c.key}.card" for c in cards} | {f"{c.key}-{c.sum}.kv" for c in cards}
    assert disk.bytes == sum(c.size for c in cards) <= BUDGET and disk.count == len(cards)
    return cards


def test_what_is_kept_is_there_for_the_next_process(tmp_path: Path) -> None:
    disk = Disk.open(tmp_path, BUDGET, 0.0)
    done = put(disk, tmp_path, b"a" * 600)
    assert done.card is not None and not done.gone
    (found,) = whole(tmp_path)
    assert found == done.card and found.text == b"a" * 600 and found.tokens == 600
    assert disk.cards("00" * 16, 100) == []
    folder = disk.folder
    assert folder.stat().st_mode & 0o777 == 0o700 and {f.stat().st_mode & 0o777 for f in folder.iterdir()} == {0o600}
    assert "60000 bytes" in repr(disk)
    disk.remove(found)
    assert whole(tmp_path) == []


@pytest.mark.parametrize("harm", ["flip", "flip-head", "short", "long", "gone", "card", "card-gone", "swapped", "renamed"])
def test_what_changed_on_disk_is_found_and_goes(tmp_path: Path, harm: str) -> None:
    disk = Disk.open(tmp_path, BUDGET, 0.0)
    one, other = put(disk, tmp_path, b"a" * 600).card, put(disk, tmp_path, b"b" * 600).card
    assert one is not None and other is not None
    file, label = disk.folder / f"{one.key}-{one.sum}.kv", disk.folder / f"{one.key}.card"
    data = bytearray(file.read_bytes())
    if harm in ("flip", "flip-head"):
        data[20 if harm == "flip-head" else 5000] ^= 1
        file.write_bytes(data)
    elif harm in ("short", "long"):
        file.write_bytes(data[:-1] if harm == "short" else data + b"x")
    elif harm == "gone":
        file.unlink()
    elif harm == "card":
        label.write_bytes(label.read_bytes().replace(b'"tokens":600', b'"tokens":601'))
    elif harm == "card-gone":
        label.unlink()
    elif harm == "swapped":
        file.write_bytes((disk.folder / f"{other.key}-{other.sum}.kv").read_bytes())
    else:
        label.rename(disk.folder / f"{'0' * 32}-2048.card")
    target = tmp_path / "target"
    if harm not in ("card", "card-gone", "renamed"):
        assert not disk.fetch(one, target, 1.0) and not [*tmp_path.glob("target*")]
    assert [c.key for c in whole(tmp_path)] == [other.key]


def test_budget_goes_by_value_and_time(tmp_path: Path) -> None:
    disk = Disk.open(tmp_path, 20_000, 0.0)
    size = len(kv(b"a" * 600))
    assert 20_000 // size == 3
    day = module.HALF_LIFE
    put(disk, tmp_path, b"a" * 600, 0.0, seconds=1.0)
    put(disk, tmp_path, b"b" * 600, 0.0, seconds=9.0)
    put(disk, tmp_path, b"c" * 600, 0.0, seconds=2.0)
    done = put(disk, tmp_path, b"d" * 600, 1.0, seconds=0.5)  # what is newest is kept, and what is worth least goes for it
    assert done.card is not None
    assert {c.text[:1] for c in disk.cards(OF.hex(), 9)} == {b"b", b"c", b"d"}
    put(disk, tmp_path, b"e" * 600, 5 * day, seconds=0.1)  # what was worth 9 is worth 0.28 by now, 0.5 is 0.016
    assert {c.text[:1] for c in disk.cards(OF.hex(), 9)} == {b"b", b"c", b"e"}
    found = next(c for c in disk.cards(OF.hex(), 9) if c.text[:1] == b"c")
    assert disk.fetch(found, tmp_path / "target", 5 * day)  # used: it counts anew
    put(disk, tmp_path, b"f" * 600, 5 * day, seconds=5.0)
    assert {c.text[:1] for c in disk.cards(OF.hex(), 9)} == {b"b", b"c", b"f"}
    assert put(disk, tmp_path, b"g" * 600, 5 * day, size=30_000).card is None  # larger than all
    assert len(disk.cards(OF.hex(), 9)) == 3 and {c.text[:1] for c in disk.cards(OF.hex(), 2)} == {b"c", b"f"}
    assert Disk.open(tmp_path, size, 5 * day).count == 1  # a smaller budget holds from the start


def test_other_models_share_the_budget_and_nothing_else(tmp_path: Path) -> None:
    disk = Disk.open(tmp_path, 8_000, 0.0)
    put(disk, tmp_path, b"a" * 600, 0.0)
    other = b"m" * 16
    done = put(disk, tmp_path, b"a" * 600, 1.0, of=other)
    assert done.card is not None and disk.cards(OF.hex(), 9) == [] and disk.cards(other.hex(), 9) == [done.card]


def test_a_longer_one_makes_shorter_ones_cheap(tmp_path: Path) -> None:
    disk = Disk.open(tmp_path, 20_000, 0.0)
    short = put(disk, tmp_path, b"a" * 600, 1e6).card
    assert short is not None
    source = tmp_path / "source"
    source.write_bytes(kv(b"a" * 700))
    long = msgspec.structs.replace(short, name="1" * 32 + ".kv", text=b"a" * 700, size=source.stat().st_size)
    assert disk.put(source, long, [short.key, "unknown"], frozenset(), 1e6).card is not None
    put(disk, tmp_path, b"b" * 600, 1e6, seconds=0.9)
    put(disk, tmp_path, b"c" * 600, 1e6)
    assert {c.text[:1] + c.text[600:601] for c in disk.cards(OF.hex(), 9)} == {b"aa", b"b", b"c"}


def test_processes_hear_of_each_other(tmp_path: Path) -> None:
    one, other = Disk.open(tmp_path, 20_000, 0.0), Disk.open(tmp_path, 20_000, 0.0)
    a = put(one, tmp_path, b"a" * 600, 1.0).card
    b = put(other, tmp_path, b"b" * 600, 2.0)
    assert a is not None and b.card is not None and b.news == (a,)
    again = put(other, tmp_path, b"a" * 600, 3.0)  # the same content: it is there already
    assert again.card == a and other.count == 2
    put(one, tmp_path, b"c" * 600, 4.0)
    put(one, tmp_path, b"d" * 600, 5.0)
    source = tmp_path / "source"
    source.write_bytes(kv(b"e" * 600))
    e = msgspec.structs.replace(a, name="e" * 32 + ".kv", text=b"e" * 600)
    told = other.put(source, e, (), frozenset({a.key, b.card.key}), 6.0)
    assert b.card.key in told.gone and {c.text[:1] for c in told.news} <= {b"c", b"d"}
    assert not other.fetch(b.card, tmp_path / "target", 7.0)


def test_two_that_write_the_same_at_once_leave_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Disk.open(tmp_path, BUDGET, 0.0), Disk.open(tmp_path, BUDGET, 0.0)
    copied = module._copied
    met: list[int] = []

    def meanwhile(source: Path, target: int, size: int) -> str:
        if not met:
            met.append(1)
            assert put(other, tmp_path / "b", b"a" * 600, seed=1).card is not None  # the same tokens, computed in other batches
            assert len([*one.folder.glob("*.part")]) == 1  # ours is being written, and is not swept by the other
            other._look()
            assert other.bytes == 2 * size
        return copied(source, target, size)

    (tmp_path / "b").mkdir()
    monkeypatch.setattr(module, "_copied", meanwhile)
    assert put(one, tmp_path, b"a" * 600).card is not None
    monkeypatch.undo()
    assert len(whole(tmp_path)) == 1


def test_a_lock_that_is_held_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    disk = Disk.open(tmp_path, BUDGET, 0.0)
    with open(disk.folder / "lock", "r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Busy):
            put(disk, tmp_path, b"a" * 600)
    assert put(disk, tmp_path, b"a" * 600).card is not None


def test_a_full_disk_keeps_nothing_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk.open(tmp_path, BUDGET, 0.0)
    monkeypatch.setattr(files, "free", lambda folder: 100)
    assert put(disk, tmp_path, b"a" * 600).card is None
    monkeypatch.undo()

    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        put(disk, tmp_path, b"a" * 600)
    monkeypatch.undo()
    assert whole(tmp_path) == []


def test_a_source_that_changed_meanwhile_is_not_kept(tmp_path: Path) -> None:
    disk = Disk.open(tmp_path, BUDGET, 0.0)
    card = put(disk, tmp_path, b"a" * 600).card
    assert card is not None
    source = tmp_path / "source"
    source.write_bytes(b"short")
    with pytest.raises(OSError, match="5 bytes instead of"):
        disk.put(source, msgspec.structs.replace(card, name="1" * 32 + ".kv"), (), frozenset(), 1.0)
    assert len(whole(tmp_path)) == 1


def test_a_folder_that_others_could_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / module.NAME).mkdir(mode=0o755)
    with pytest.raises(PermissionError, match="mode 0700"):
        Disk.open(tmp_path, BUDGET, 0.0)
    (tmp_path / module.NAME).rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / module.NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        Disk.open(tmp_path, BUDGET, 0.0)


def test_files_that_are_not_ours_stay(tmp_path: Path) -> None:
    disk = Disk.open(tmp_path, BUDGET, 0.0)
    for name in ("notes.txt", "x.kv", f"{'0' * 31}-1.card"):
        (disk.folder / name).write_bytes(b"x")
    put(disk, tmp_path, b"a" * 600)
    assert all((disk.folder / name).exists() for name in ("notes.txt", "x.kv", f"{'0' * 31}-1.card"))


def crashed(folder: Path, seed: int, step: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.backends.slots.crash", str(folder), str(seed), str(step)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def test_killed_at_any_step_nothing_wrong_is_left(tmp_path: Path) -> None:
    """Every step of the first two files, in turn; files that were there before are there afterwards."""
    ends = []
    for step in range(1, 70, 3):
        with crashed(tmp_path, step, step) as process:
            process.communicate(timeout=60)
            ends.append(process.returncode)
        whole(tmp_path)
    assert ends[0] == -signal.SIGKILL and ends.count(-signal.SIGKILL) > 10
    assert len(whole(tmp_path)) > 3


def test_killed_while_several_write(tmp_path: Path) -> None:
    """Two processes on one folder, one of them killed at random moments: the other goes on, the folder stays whole."""
    rng = random.Random(7)
    with crashed(tmp_path, 1, 0) as steady:
        assert steady.stdout is not None and steady.stdout.readline() == b"begun\n"
        for turn in range(6):
            with crashed(tmp_path, 10 + turn, 0) as victim:
                assert victim.stdout is not None
                for _ in range(rng.randrange(1, 30)):
                    assert victim.stdout.readline()
                os.kill(victim.pid, signal.SIGKILL)
                victim.stdout.read()
            for _ in range(3):
                assert steady.stdout.readline() == b"kept\n"
            disk = Disk.open(tmp_path, BUDGET, 0.0)
            assert disk.bytes <= BUDGET
            target = tmp_path / f"target{turn}"
            got = [disk.fetch(card, target, 1.0) and target.read_bytes() == kv(card.text) for card in disk.cards(OF.hex(), 100)]
            assert any(got)  # some may have been evicted since
        steady.kill()
        steady.stdout.read()
    assert whole(tmp_path)


@pytest.mark.full
def test_killed_at_each_single_step(tmp_path: Path) -> None:
    for step in range(1, 130):
        with crashed(tmp_path, step % 5, step) as process:
            process.communicate(timeout=60)
        whole(tmp_path)
