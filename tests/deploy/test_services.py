"""deploy/systemd and deploy/launchd: what they start exists, ends after the drain, and may do little."""

from __future__ import annotations

import plistlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.cli import _parser
from gateway.config_types import ServerConfig

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNIT = DEPLOY / "systemd" / "pointsman.service"
DRAIN = ServerConfig().drain_seconds + ServerConfig().drain_notice_seconds


def unit() -> dict[str, list[str]]:
    """The settings of [Service], each with all its values in order."""
    out: dict[str, list[str]] = {}
    for line in UNIT.read_text().partition("[Service]")[2].partition("[Install]")[0].splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            out.setdefault(name, []).append(value)
    return out


def test_systemd() -> None:
    service = unit()
    program, *arguments = service["ExecStart"][0].split()
    assert Path(program).is_absolute() and _parser().parse_args(arguments).command == "serve"
    assert service["Type"] == ["exec"]  # it tells systemd nothing
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"] and service["KillMode"] == ["mixed"]
    assert int(service["TimeoutStopSec"][0]) >= DRAIN + 30
    assert service["DynamicUser"] == ["yes"] and service["CapabilityBoundingSet"] == [""]


def test_systemd_names_its_own_folders() -> None:
    service = unit()
    env = dict(word.partition("=")[::2] for value in service["Environment"] for word in value.split())
    state, cache = f"/var/lib/{service['StateDirectory'][0]}", f"/var/cache/{service['CacheDirectory'][0]}"
    for name, value in env.items():
        if name.endswith("HOME"):
            assert value.startswith((state, cache)), name


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_analyze(tmp_path: Path) -> None:
    """systemd's own opinion, of the unit with a program that is here."""
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    mine = [line for line in verified.stderr.splitlines() if copy.name in line]
    assert mine == []
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(copy)], capture_output=True, text=True, check=False
    )
    if judged.returncode != 0:
        pytest.skip(f"systemd-analyze cannot judge a file: {judged.stderr.strip()[:100]}")
    found = re.search(r"exposure level for \S+: ([\d.]+)", judged.stdout)
    assert found is not None and float(found[1]) <= 2.0, judged.stdout


def test_launchd() -> None:
    with (DEPLOY / "launchd" / "io.pointsman.plist").open("rb") as file:
        job = plistlib.load(file)
    program, *arguments = job["ProgramArguments"]
    assert Path(program).is_absolute() and _parser().parse_args(arguments).command == "serve"
    assert job["ExitTimeOut"] >= DRAIN + 30 and job["KeepAlive"] == {"SuccessfulExit": False}
    assert job["UserName"] == "_pointsman" and job["Umask"] == 0o077
    assert job["EnvironmentVariables"]["HOME"].startswith("/usr/local/var/pointsman")
