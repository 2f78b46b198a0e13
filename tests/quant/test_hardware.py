"""Machines: this one, and others as files under a folder that stands for `/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from quant.hardware import Gpu, Limit, Machine, bandwidth, cgroup, gpus, look

GIB = 1 << 30
MEMINFO = "MemTotal:       16777216 kB\nMemFree:         1000000 kB\nMemAvailable:    8388608 kB\nSwapFree:        1048576 kB\n"
CPUINFO = "processor\t: 0\nmodel name\t: Test CPU @ 3.00GHz\ncpu MHz\t\t: 3000.5\nflags\t\t: fpu sse avx avx2 fma\n"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def silent(words: Sequence[str]) -> str:
    return ""


def test_a_plain_machine(tmp_path: Path) -> None:
    seen = look(machine(tmp_path, {"proc/meminfo": MEMINFO, "proc/cpuinfo": CPUINFO}), silent)
    assert (seen.total, seen.available, seen.swap) == (16 * GIB, 8 * GIB, GIB)
    assert (seen.processor, seen.features, seen.hertz) == ("Test CPU @ 3.00GHz", "avx2", 3000.5e6)
    assert seen.limit == Limit() and not seen.gpus
    assert seen.reserve == 3 * GIB // 2 and seen.budget == 8 * GIB - seen.reserve


def test_a_limit_of_the_second_version_counts_over_all_levels(tmp_path: Path) -> None:
    root = machine(tmp_path, {
        "proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/user/me\n", "sys/fs/cgroup/cgroup.controllers": "memory\n",
        "sys/fs/cgroup/user/memory.max": str(2 * GIB), "sys/fs/cgroup/user/memory.current": str(GIB),
        "sys/fs/cgroup/user/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
        "sys/fs/cgroup/user/me/memory.max": "max\n", "sys/fs/cgroup/user/me/memory.current": "1\n",
    })  # fmt: skip
    seen = look(root, silent)
    assert seen.limit == Limit(2, 2 * GIB, GIB // 2)
    assert seen.available == 3 * GIB // 2
    assert seen.budget == seen.available - seen.available // 20  # nobody else lives in the container


def test_a_limit_of_the_first_version(tmp_path: Path) -> None:
    root = machine(tmp_path, {
        "proc/self/cgroup": "4:memory:/box\n2:cpu:/\n", "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(GIB),
        "sys/fs/cgroup/memory/box/memory.usage_in_bytes": str(GIB // 4),
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str((1 << 63) - 4096),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "5",
    })  # fmt: skip
    assert cgroup(root) == Limit(1, GIB, GIB // 4)


def test_a_container_that_sees_its_group_as_the_root(tmp_path: Path) -> None:
    root = machine(tmp_path, {
        "proc/self/cgroup": "0::/docker/0123\n", "sys/fs/cgroup/cgroup.controllers": "memory\n",
        "sys/fs/cgroup/memory.max": str(GIB), "sys/fs/cgroup/memory.current": "100",
    })  # fmt: skip
    assert cgroup(root) == Limit(2, GIB, 100)


@pytest.mark.parametrize("said", ["", "0::\n", "nonsense", "0::/../../etc\n", "4:memory\n"])
def test_what_cannot_be_read_is_no_limit(tmp_path: Path, said: str) -> None:
    assert cgroup(machine(tmp_path, {"proc/self/cgroup": said, "sys/fs/cgroup/memory.max": "max"})) == Limit()


def test_an_empty_machine_is_described_too(tmp_path: Path) -> None:
    seen = look(tmp_path, silent)
    assert seen.cores >= 1 and seen.features in ("", "dotprod") and seen.total >= 0


def test_cards_by_their_makers_tools() -> None:
    def nvidia(words: Sequence[str]) -> str:
        return "NVIDIA H100, 81559, 80000\nNVIDIA L4, 23034, 100\n" if words[0] == "nvidia-smi" else ""

    def amd(words: Sequence[str]) -> str:
        return "device,VRAM Total Memory (B),VRAM Total Used Memory (B)\ncard0,17163091968,1000\n" if words[0] == "rocm-smi" else ""

    assert gpus(nvidia) == (Gpu("NVIDIA H100", 81559 << 20, 80000 << 20), Gpu("NVIDIA L4", 23034 << 20, 100 << 20))
    assert gpus(amd) == (Gpu("AMD card0", 17163091968, 17163090968),)
    assert gpus(lambda words: "No devices were found") == ()


def test_bandwidth_reads_every_block_and_keeps_the_best_round() -> None:
    times = iter([0.0, 1.0, 2.0, 2.1, 2.2, 2.3, 9.0])  # until; a round of 1 s, one of 0.1 s; the end
    assert bandwidth(2, 2.0, clock=lambda: next(times), block=1 << 20) == pytest.approx(2 * (1 << 20) / 1.0)
    assert bandwidth(1, 0.0, block=1 << 20) > 1e6


def test_the_reserve_never_takes_everything() -> None:
    small = Machine("Linux", "x", "", 1, 0.0, GIB, GIB, 0, Limit())
    assert small.budget == GIB // 2
    large = msgspec.structs.replace(small, total=512 * GIB, available=500 * GIB)
    assert large.reserve == 50 * GIB
    assert small.fingerprint != large.fingerprint
