"""The pure parts: commands, restarts, reasons, sizes, log."""

from __future__ import annotations

import json
import sys

import pytest

from backends.engines import reasons, sizing
from backends.engines.breaker import CRASHES, NEVER_READY, SLOW, WINDOW, Breaker, Verdict, hung
from backends.engines.child import Settings
from backends.engines.instance import LINES, WIDTH, Instance, Log
from backends.engines.rows import ROWS, Launch, launch
from backends.engines.spec import EngineSpec, Lora

KEY = "sk-random-key"


def spec(kind: str, **fields: object) -> EngineSpec:
    base: dict[str, object] = {"name": "m", "kind": kind, "model": "org/model", "served_name": "served"}
    return EngineSpec(**{**base, **fields})  # type: ignore[arg-type]


# -- rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(ROWS))
def test_no_key_in_any_argument(kind: str) -> None:
    full = spec(kind, command=("srv", "--port", "{port}"), context=4096, threads=2, slot_save_path="/s", chat_template="t")
    plan = launch(full, 4321, KEY)
    assert not any(KEY in word for word in plan.argv) and KEY not in repr(plan)
    assert any(KEY in text for text in (*plan.env.values(), *plan.files.values(), plan.stdin)), "but it gets there"
    assert plan.health.startswith("/")


def test_rows_say_what_each_engine_understands() -> None:
    def argv(kind: str, **fields: object) -> str:
        return " ".join(launch(spec(kind, **fields), 4321, KEY).argv)

    assert argv("vllm", context=2048, args=("--enforce-eager",)).endswith(
        "-m vllm.entrypoints.openai.api_server --model org/model --served-model-name served --host 127.0.0.1 --port 4321"
        " --max-model-len 2048 --enforce-eager"
    )
    assert "-m sglang.launch_server --config {dir}/key.yaml --model-path org/model" in argv("sglang")
    assert argv("vllm", python="/v/bin/python").startswith("/v/bin/python -m vllm")
    server = argv("llama-server", slots=3, context=1000, embeddings=True, command=("/opt/llama-server",))
    assert server.startswith("/opt/llama-server --model org/model --alias served") and "--ctx-size 3000" in server
    assert "--no-context-shift" in server and "--embeddings --pooling mean --ubatch-size 510" in server
    beside = argv("llama-server", lora=(Lora("/a.gguf", 0.5),), projector="/eyes.gguf", draft="/small.gguf", draft_tokens=4)
    assert beside.endswith("--lora-scaled /a.gguf:0.5 --mmproj /eyes.gguf --model-draft /small.gguf --draft-max 4")
    assert "--reranking" in argv("llama-server", reranking=True) and "--embeddings" not in argv("llama-server")
    assert "-m llama_cpp.server --model org/model" in argv("llama-cpp-python")
    assert argv("command", command=("x", "{host}:{port}", "{model}"), args=("-v",)) == "x 127.0.0.1:4321 org/model -v"


def test_the_child_gets_its_settings_on_standard_input() -> None:
    plan = launch(spec("llamacpp", context=512, slots=2, replicas=3, args=("kv_unified=true",)), 0, KEY)
    assert plan.argv == (sys.executable, "-m", "backends.engines.child") and plan.reports
    assert json.loads(plan.stdin) == {
        "model": "org/model", "alias": "served", "api_key": KEY, "slots": 2, "context": 512, "threads": None, "replicas": 3,
        "embeddings": True, "reranking": False, "chat_template": "", "slot_save_path": "", "extra": ["kv_unified=true"],
        "lora": [], "projector": "", "draft": "", "draft_tokens": None,
    }  # fmt: skip
    assert set(json.loads(plan.stdin)) == set(Settings.__struct_fields__)
    assert plan.env["OMP_WAIT_POLICY"] == "passive" and plan.env["GGML_NO_BACKTRACE"] == "1"


def test_the_specs_environment_and_health_path_win() -> None:
    plan = launch(spec("llamacpp", env={"OMP_WAIT_POLICY": "active", "P": "{port}"}, health_path="/up"), 4321, KEY)
    assert plan.env["OMP_WAIT_POLICY"] == "active" and plan.env["P"] == "4321" and plan.health == "/up"
    assert isinstance(plan, Launch)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"slots": 0}, "`slots` is 0"), ({"replicas": 0}, "`replicas`"), ({"context": -1}, "`context`"), ({"memory": 0}, "`memory`"),
        ({"name": ""}, "`name`"), ({"name": "a#b"}, "`name`"), ({"model": ""}, "`model` is needed"),
        ({"ready_seconds": 0}, "`ready_seconds`"),
        ({"kind": "command"}, "`command` is needed"), ({"kind": "command", "command": ("x", "{api_key}")}, "may stand in `env` only"),
    ],
)  # fmt: skip
def test_specs_are_checked(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        spec(str(fields.pop("kind", "llamacpp")), **fields)


# -- breaker --------------------------------------------------------------------------------------------------


def test_the_first_restart_is_at_once_then_slower_then_failed() -> None:
    breaker, verdicts = Breaker(), []
    for second in range(CRASHES + 2):
        breaker.ready()
        verdicts.append(breaker.ended("crashed", True, float(second)))
    assert verdicts[: CRASHES - 1] == [Verdict(False, delay) for delay in (0.0, 0.5, 1.0, 2.0)]
    assert verdicts[CRASHES - 1 :] == [Verdict(True, delay) for delay in SLOW[:3]]


def test_crashes_are_forgotten() -> None:
    breaker = Breaker()
    for hour in range(20):
        breaker.ready()
        assert breaker.ended("crashed", True, hour * (WINDOW + 1)) == Verdict(False, 0.0)


def test_engines_that_are_never_ready_fail_soon() -> None:
    breaker = Breaker()
    verdicts = [breaker.ended("late", False, 1000.0 * turn) for turn in range(NEVER_READY)]
    assert [verdict.failed for verdict in verdicts] == [False, False, True]
    breaker.reset()
    assert breaker.ended("crashed", False, 9e9) == Verdict(False, 0.0)


def test_unusable_is_final_and_ports_are_free() -> None:
    breaker = Breaker()
    assert breaker.ended("unusable", False, 0.0) == Verdict(True, None)
    assert [breaker.ended("port", False, 0.0) for _ in range(5)] == [Verdict(False, 0.0)] * 5
    assert breaker.ended("port", False, 0.0) == Verdict(False, 0.0), "counts as the first crash"
    assert breaker.ended("port", False, 0.0) == Verdict(False, 0.5)


def test_hung() -> None:
    assert [hung(strikes, 0) for strikes in (1, 2, 3)] == [False, False, True]
    assert not hung(30, 29) and hung(60, 59)


# -- reasons --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "why", "said", "lines", "says"),
    [
        (3, "", "llama.cpp could not load x.gguf", ["0.00.1.2 E llama_model_load: error loading model: unknown model arch: 'y'"],
         "could not load x.gguf (the model cannot be loaded: unknown model arch: 'y')."),
        (-6, "", "", ["foo", "GGML_ASSERT(n > 0) failed", "bar"], "it was ended by SIGABRT; GGML_ASSERT(n > 0) failed."),
        (-9, "", "", ["busy"], "it was ended by SIGKILL (the system may be out of memory)."),
        (1, "", "", ["ggml_backend_cpu: failed to allocate buffer of size 9"], "there is not enough memory for it"),
        (1, "", "", ["Traceback", "torch.OutOfMemoryError: CUDA out of memory. Tried"], "there is not enough memory for it"),
        (1, "", "", ["  File x", "ValueError: No common block size for 16"], "with code 1; ValueError: No common block size for 16."),
        (2, "", "", ["usage: x", "x: unknown option"], "code 2; its last words were 'x: unknown option'."),
        (None, "", "", [], "its wrapper process was killed."),
        (-15, "memory: it used 5 MiB of the 4 MiB it may have", "", [],
         "used 5 MiB of the 4 MiB it may have; give it more with `memory`"),
        (-64, "", "", [], "SIGRTMAX"),
    ],
)  # fmt: skip
def test_reasons(code: int | None, why: str, said: str, lines: list[str], says: str) -> None:
    sentence = reasons.explain(spec("vllm"), code, why, said, lines)
    assert sentence.startswith("The engine 'm' failed: ") and says in sentence and sentence.endswith(".") and not sentence.endswith("..")


def test_port_taken() -> None:
    assert reasons.port_taken(["x", "[Errno 98] error while attempting to bind: Address already in use"])
    assert reasons.port_taken(["couldn't bind HTTP server socket"]) and not reasons.port_taken(["all is well"])
    mine = ["[Errno 98] error while attempting to bind on address ('127.0.0.1', 4321): address already in use"]
    assert reasons.port_taken(mine, 4321) and not reasons.port_taken(mine, 432) and not reasons.port_taken(["port 4321"], 4321)


# -- sizes ----------------------------------------------------------------------------------------------------


def test_threads() -> None:
    asked = ((None, 1), (None, 3), (None, 99), (4, 2), (64, 1))
    assert [sizing.threads(count, replicas, 8) for count, replicas in asked] == [8, 2, 1, 4, 8]


def test_context() -> None:
    gib = 1 << 30
    assert sizing.context(None, 2048, 4, 1000, gib) == 2048
    assert sizing.context(None, 131_072, 4, 0, 0) == sizing.DEFAULT_CONTEXT
    assert sizing.context(None, 131_072, 4, 131_072, 8 * gib) == 8192, "the cache of four slots fits into half of the memory"
    assert sizing.context(None, 131_072, 4, 131_072, 1) == sizing.SMALLEST_CONTEXT
    assert sizing.context(100_000, 2048, 4, 131_072, 1) == 100_096, "asked for is asked for, in llama.cpp's steps of 256"
    assert sizing.context(None, 0, 1, 0, 0) == sizing.DEFAULT_CONTEXT


def test_batch_and_cache() -> None:
    assert sizing.batch(4096, 10**6, False) == 2048 and sizing.batch(4096, 10**10, False) == 512
    assert sizing.batch(4096, 10**10, True) == 4096
    assert [sizing.batch(2048, 10**6, False, slots) for slots in (1, 3, 4, 5, 64)] == [2048, 2046, 2048, 2045, 2048]
    assert sizing.batch(16, 10**6, False, 3) == 30 and sizing.batch(16, 10**6, False, 100) == 100
    assert sizing.prompt_cache_mib(0) == 0 and sizing.prompt_cache_mib(1 << 34) == 1024 and sizing.prompt_cache_mib(1 << 30) == 64


def test_the_machine_has_something() -> None:
    assert sizing.machine_cores() >= 1 and sizing.machine_memory() >= 0


# -- log ------------------------------------------------------------------------------------------------------


def test_log_is_bounded_and_hides() -> None:
    log = Log()
    log.hide(("hunter2-key", "abc"))
    log.feed(b"the key is hunter2-k")
    log.feed(b"ey!\nabc\n10%\r50%\r100%\r\nhalf")
    assert log.tail() == ["the key is ***!", "abc", "100%"] and log.last == "100%"
    log.flush()
    assert log.last == "half"
    log.feed(b"x" * 100_000)
    assert len(log.last) == WIDTH
    log.feed(b"\n".join(b"%d" % i for i in range(5000)) + b"\n")
    assert len(log) == LINES and log.tail(1) == ["4999"] and log.tail(0) == []
    log.feed(b"\xff\xfe\n")
    assert log.last == "��"


def test_log_tells_this_start_from_the_last() -> None:
    log = Log()
    log.feed(b"old\n")
    log.note("note")
    log.begin()
    assert log.told() == []
    log.feed(b"new\n")
    assert log.told() == ["new"] and log.tail() == ["old", "[pointsman] note", "new"]


def test_instances_are_readable() -> None:
    instance = Instance("m#0", spec("llamacpp"))
    instance.api_key, instance.facts = KEY, {"vocab": 5, "quant": "Q8_0"}
    assert repr(instance) == "Instance(m#0 starting - pid=None)" and not instance.ready
    assert instance.fact("vocab") == 5 and instance.fact("quant") is None and instance.fact("none") is None
