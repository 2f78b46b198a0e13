"""Load by wrk (Debian's package of that name) for whole small answers: many times what a client in Python can send.

Closed loop: a connection's next request waits for its last answer, so that a server that stalls is asked less. The key and headers reach
wrk by its environment, never by a file or the command line.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from pathlib import Path

import msgspec

from benchmarks.bench.errors import BenchError
from benchmarks.bench.words import Ask, Target

_KEY, _HEADERS = "POINTSMAN_BENCH_KEY", "POINTSMAN_BENCH_HEADERS"
_MORE_SECONDS = 30.0  # that it may take beyond what it was told
_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local key = os.getenv("%(key)s")
if key and key ~= "" then wrk.headers["Authorization"] = "Bearer " .. key end
for name, value in (os.getenv("%(headers)s") or ""):gmatch("([^:\\n]+): ([^\\n]*)\\n") do wrk.headers[name] = value end
local bodies = {}
for line in io.lines(%(bodies)s) do bodies[#bodies + 1] = line end
local at = 0
request = function()
  at = at %% #bodies + 1
  return wrk.format(nil, nil, nil, bodies[at])
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {"seconds":%%.6f,"requests":%%d,"failed":%%d,"p50":%%.9f,"p99":%%.9f,"p999":%%.9f,"most":%%.9f}\\n',
    summary.duration / 1e6, summary.requests, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, latency:percentile(99.9) / 1e6, latency.max / 1e6))
end
"""


class Told(msgspec.Struct, frozen=True):
    """What wrk saw. Times are seconds, from request to whole answer; `failed` counts other statuses than 2xx and 3xx, too."""

    seconds: float
    requests: int
    failed: int
    p50: float
    p99: float
    p999: float
    most: float

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return max(0, self.requests - self.failed) / self.seconds if self.seconds else 0.0


def installed() -> str | None:
    """Where wrk is; None: not installed."""
    return shutil.which("wrk")


async def run(target: Target, asks: list[Ask], connections: int, seconds: float) -> Told:
    """Sends the bodies of `asks` in turn over so many connections. Raises BenchError where wrk fails or says what is not understood."""
    path = target.url.rstrip("/") + ("/chat/completions" if target.api == "chat" else "/completions")
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as folder:
        files = {name: Path(folder, name) for name in ("load.lua", "bodies", "headers")}
        files["bodies"].write_bytes(b"\n".join(ask.body for ask in asks) + b"\n")
        script = _SCRIPT % {"key": _KEY, "headers": _HEADERS, "bodies": _quoted(str(files["bodies"]))}
        files["load.lua"].write_text(script, encoding="utf-8")
        secret = {_KEY: target.key, _HEADERS: "".join(f"{name}: {value}\n" for name, value in target.headers.items())}
        return await _started(path, files["load.lua"], connections, seconds, secret)


def _quoted(text: str) -> str:
    """A string as Lua writes it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


async def _started(url: str, script: Path, connections: int, seconds: float, secret: dict[str, str]) -> Told:
    program = installed()
    if program is None:
        raise BenchError("wrk is not installed; install Debian's package wrk, or add --own-client")
    whole = max(1, round(seconds))
    command = [program, "-t1", f"-c{connections}", f"-d{whole}s", "--timeout", f"{max(10, whole)}s", "-s", str(script), url]
    pipe, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *command, stdin=none, stdout=pipe, stderr=asyncio.subprocess.STDOUT, env=os.environ | secret
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), whole + _MORE_SECONDS)
    except TimeoutError:
        raise BenchError(f"wrk did not end within {whole + _MORE_SECONDS:.0f} s; is the server there?") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return told(output.decode(errors="replace"))


def told(output: str) -> Told:
    """What wrk's script wrote at its end. Raises BenchError, with the last line, where it wrote nothing. Pure."""
    found = re.search(r"^RESULT (\{.*\})$", output, re.M)
    if found is None:
        raise BenchError(f"wrk measured nothing: {(output.strip().splitlines() or ['it said nothing'])[-1][:200]}")
    return msgspec.json.decode(found[1], type=Told)
