"""Folders of a process: private, and none stays behind for ever."""

from __future__ import annotations

import os
from pathlib import Path

from backends.scratch import folder, sweep

DEAD = 2**22 + 1  # beyond the largest process id that Linux gives out


def test_folders_of_the_dead_are_swept_and_no_others(tmp_path: Path) -> None:
    uid, me = os.getuid(), os.getpid()
    gone = f"pointsman-kv-{uid}-{DEAD}-abc"
    stay = {f"pointsman-kv-{uid}-{me}-abc", f"pointsman-kv-{uid + 1}-{DEAD}-abc", f"pointsman-answers-{uid}-{DEAD}-abc", "other"}
    for name in (gone, *stay):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.part").write_bytes(b"x")
    sweep("kv", tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == stay
    sweep("kv", tmp_path / "nowhere")


def test_a_folder_is_private_and_named_by_its_process(tmp_path: Path) -> None:
    left = tmp_path / f"pointsman-answers-{os.getuid()}-{DEAD}-abc"
    left.mkdir()
    made = folder("answers", tmp_path)
    assert made.name.startswith(f"pointsman-answers-{os.getuid()}-{os.getpid()}-") and made.stat().st_mode & 0o777 == 0o700
    assert [*tmp_path.iterdir()] == [made]
