"""What holds for every test: nothing of the user's own settings reaches the gateway under test."""

from __future__ import annotations

import atexit
import importlib
import itertools
import os
import shutil
import signal
import tempfile

import pytest
from hypothesis import settings

_OWN = ("POINTSMAN_", "HF_", "OPENAI_")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

for _name in [name for name in os.environ if name.startswith(_OWN) or name.lower() in _PROXIES]:
    if not _name.startswith("POINTSMAN_TEST_"):  # settings of the tests themselves
        del os.environ[_name]

# A shell without job control lets what it starts in the background ignore Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# It reads its variables once, when it is imported: before any test changes them.
importlib.import_module("huggingface_hub.constants")

# The same examples on every run and machine, and no clock: a slow machine is no failure.
settings.register_profile("pointsman", derandomize=True, deadline=None, database=None)
settings.load_profile("pointsman")

_STATE, _numbers = tempfile.mkdtemp(prefix="pointsman-state-"), itertools.count()
atexit.register(shutil.rmtree, _STATE, ignore_errors=True)


def pytest_runtest_setup() -> None:
    """Each test has a folder for state of its own, made where it is needed."""
    os.environ["XDG_STATE_HOME"] = f"{_STATE}/{next(_numbers)}"


@pytest.fixture
def uncovered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts are not measured by coverage, which takes some MB of each."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)
