"""deploy/compose: the file is what the specification allows, nothing in it can write to an image, and its configuration is good."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from gateway.cli import _parser
from gateway.config import load

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
COMPOSE = DEPLOY / "compose"
SCHEMA = Path(__file__).parent / "schemas" / "compose-spec.json"
FILE: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
SERVICES = pytest.mark.parametrize("name", sorted(FILE["services"]))


def filled(tree: Any) -> Any:
    """The file as Compose sees it with nothing in its environment."""
    if isinstance(tree, dict):
        return {key: filled(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [filled(value) for value in tree]
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", tree) if isinstance(tree, str) else tree


def test_schema() -> None:
    validator = jsonschema_rs.validator_for(json.loads(SCHEMA.read_text()))
    assert [error.message for error in validator.iter_errors(filled(FILE))] == []
    assert not validator.is_valid({"services": {"a": {"image": 1}}})  # the schema refuses what is wrong


@SERVICES
def test_hardened(name: str) -> None:
    service = FILE["services"][name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "network_mode", "pid", "cap_add"} & set(service)
    assert service["healthcheck"]["test"][0] == "CMD" and service["restart"] == "unless-stopped"
    assert service["logging"]["options"]["max-size"] and service["pids_limit"]


@SERVICES
def test_tags_are_pinned(name: str) -> None:
    image = filled(FILE["services"][name]["image"])
    assert re.fullmatch(r"pointsman:local|[\w./-]+:v?\d+\.\d+\.\d+(-\w+)?", image), image


@SERVICES
def test_no_port_is_open_to_all(name: str) -> None:
    assert all(filled(port).startswith("127.0.0.1:") for port in FILE["services"][name].get("ports", []))


def test_what_is_mounted_is_there() -> None:
    made = {"pointsman.env", "secrets/metrics_key", "secrets/grafana_password"}  # by ./init
    volumes = set(FILE["volumes"])
    for service in FILE["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in volumes or (COMPOSE / source).exists(), source
        assert set(service.get("env_file", [])) <= made
        assert set(service.get("networks", [])) <= set(FILE["networks"])
    assert {Path(s["file"]).as_posix() for s in FILE["secrets"].values()} <= made
    assert (COMPOSE / FILE["services"]["gateway"]["build"]["context"] / FILE["services"]["gateway"]["build"]["dockerfile"]).is_file()


def test_volumes_are_the_images() -> None:
    """A named volume takes its owner from the image: only where the image has that folder."""
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    for mount in FILE["services"]["gateway"]["volumes"]:
        source, target = mount.split(":")[:2]
        assert source not in FILE["volumes"] or f'"{target}"' in text


def test_the_command_is_ours() -> None:
    asked = _parser().parse_args(FILE["services"]["gateway"]["command"])
    mounts = [mount.split(":")[1] for mount in FILE["services"]["gateway"]["volumes"]]
    assert asked.command == "serve" and asked.host == "0.0.0.0" and str(asked.config) in mounts


def test_the_gateway_may_drain() -> None:
    grace = int(FILE["services"]["gateway"]["stop_grace_period"].removesuffix("s"))
    server = yaml.safe_load((COMPOSE / "config.yaml").read_text())["server"]
    assert grace >= server["drain_seconds"] + server.get("drain_notice_seconds", 0) + 20


def initialised(folder: Path) -> dict[str, str]:
    """A copy of the folder after ./init; what pointsman.env says."""
    shutil.copytree(COMPOSE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("secrets", "pointsman.env"))
    subprocess.run([str(folder / "init")], check=True, capture_output=True)
    lines = (folder / "pointsman.env").read_text().splitlines()
    return dict(line.partition("=")[::2] for line in lines if line and not line.startswith("#"))


def test_init(tmp_path: Path) -> None:
    env = initialised(tmp_path)
    assert env["POINTSMAN_METRICS_KEY"] == (tmp_path / "secrets" / "metrics_key").read_text()
    assert len(env["POINTSMAN_KEY"]) > 40 and "@" not in "".join(env.values())
    assert stat.S_IMODE((tmp_path / "pointsman.env").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert initialised(tmp_path) == env  # what is there stays
    ignored = (tmp_path / ".gitignore").read_text().split()
    assert ignored == ["pointsman.env", "secrets/"]


def test_configuration(tmp_path: Path) -> None:
    env = initialised(tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text(file.read_text().replace("/var/lib/pointsman/", f"{tmp_path}/"))  # the volume, which is not here
    config = load(file, env)
    me, metrics = config.keys
    assert me.admin and metrics.routes == () and list(config.routes) == ["toy"]
    assert config.server.redis == "redis://redis:6379/0" and config.server.admin.port is None


def test_provisioning() -> None:
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in FILE["services"]
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/pointsman.yaml").read_text())["providers"][0]
    mounts = dict(mount.split(":")[:2] for mount in FILE["services"]["grafana"]["volumes"])
    assert mounts["../grafana/dashboards"] == provider["options"]["path"]
    home = FILE["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(provider["options"]["path"]) and (DEPLOY / "grafana/dashboards" / Path(home).name).is_file()


def test_prometheus_scrapes_the_gateway() -> None:
    scrapes = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    gateway = next(scrape for scrape in scrapes if scrape["job_name"] == "pointsman")
    assert gateway["static_configs"] == [{"targets": ["gateway:8484"]}]
    assert gateway["authorization"]["credentials_file"] == "/run/secrets/metrics_key" and "metrics_key" in FILE["secrets"]
