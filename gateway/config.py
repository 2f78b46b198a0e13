"""The configuration: one YAML file (or flags) in, one checked `Config` out.

`load` and `parse` raise `ConfigError`, whose text names every problem with its path (`$.backends.gpu.urls[1]: ...`).
"""

from __future__ import annotations

from gateway.config_types import (
    AdminConfig,
    BackendConfig,
    Config,
    KeyConfig,
    Limits,
    LogConfig,
    RouteConfig,
    Secret,
    ServerConfig,
    Size,
    TargetConfig,
    TimeoutsOverride,
    Tls,
)

__all__ = [
    "AdminConfig", "BackendConfig", "Config", "KeyConfig", "Limits", "LogConfig", "RouteConfig", "Secret", "ServerConfig", "Size",
    "TargetConfig", "TimeoutsOverride", "Tls",
]  # fmt: skip
