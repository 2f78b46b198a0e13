"""How a child is run: whatever becomes of it, nothing of it is left, and why it failed is one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from quant import builtin
from quant.evaluate_child import perform
from quant.evaluate_jobs import Answered, Ask, Compare, EvaluateError, Event, Question, Rendered, Speed, Step, Text, run

ROOT = Path(__file__).resolve().parents[2]
TOY = str(builtin.path())
JOB = Compare("", "/models/some.gguf", (Text("a", "b" * 100_000),), 1)


def program(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_how_children_fail() -> None:
    for code, said in (
        (
            "import os; os.abort()",
            "The process that held some.gguf was ended by signal 6; it may be out of memory, or the file may be damaged.",
        ),
        ("import sys; sys.exit('no room for the cache')", "The process that held some.gguf ended with status 1: no room for the cache"),
        ('print(\'{"type":"failed","why":"It is so."}\')', "It is so."),
        ("print('hello')", "The process that holds the model says what cannot be understood; is its version the same?"),
    ):
        with pytest.raises(EvaluateError) as caught:
            run(JOB, lambda event: None, program(code))
        assert str(caught.value) == said
    with pytest.raises(EvaluateError, match="cannot be started: No such file"):
        run(JOB, lambda event: None, ["/no/such/program"])


def test_an_interrupted_run_leaves_no_child(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        f"import os, sys, time; sys.stdin.readline(); open({str(note)!r}, 'w').write(str(os.getpid()))\n"
        'print(\'{"type":"step","done":1,"total":2}\', flush=True); time.sleep(600)'
    )

    def interrupted(event: Event) -> None:
        assert event == Step(1, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(JOB, interrupted, program(code))
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_a_child_ends_with_whoever_asked() -> None:
    job = Ask(TOY, 1, tuple(Question([{"role": "user", "content": "Count to 50"}], tokens=200) for _ in range(200)))
    child = subprocess.Popen(
        [sys.executable, "-m", "quant.evaluate_child"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(msgspec.json.encode(job) + b"\n")
        child.stdin.flush()
        assert child.stdout.readline()
        child.stdin.close()
        assert child.wait(60) == 3


def test_questions_chats_and_speed() -> None:
    tool = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    image = [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    heard: list[Event] = []
    run(
        Ask(
            TOY, 1,
            questions=(Question([{"role": "user", "content": "What is 3+4?"}]),
                       Question([{"role": "user", "content": "What is the weather in Oslo?"}], [tool], 128)),
            chats=({"messages": [{"role": "user", "content": "hi"}], "temperature": 2}, {"messages": [{"role": "user", "content": image}]}),
            speed=4,
        ),
        heard.append,
    )  # fmt: skip
    steps = [event for event in heard if isinstance(event, Step)]
    assert steps[-1] == Step(5, 5) and [step.done for step in steps] == [1, 2, 3, 4, 5]
    assert [event for event in heard if isinstance(event, Answered)] == [Answered("7"), Answered("", ("weather", {"city": "Oslo"}))]
    good, bad = (event for event in heard if isinstance(event, Rendered))
    assert good == Rendered("<|user|>hi<|im_end|><|assistant|>") and bad.text == "" and "image input is not supported" in bad.problem
    (speed,) = (event for event in heard if isinstance(event, Speed))
    assert speed.writing > 0 and speed.reading > 0


def test_a_model_without_a_template_gets_a_plain_prompt() -> None:
    heard: list[Event] = []
    run(Ask(TOY, 1, (Question([], prompt="<|user|>What is 3+4?<|im_end|><|assistant|>"),), template=False), heard.append)
    assert heard[0] == Answered("7")


def test_the_server_refuses_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(EvaluateError, match=r"llama\.cpp cannot load bad\.gguf; it may be damaged, or memory is short"):
        run(Ask(str(tmp_path / "bad.gguf"), 1), lambda event: None)


def test_jobs_are_told_apart() -> None:
    assert perform(JOB) is not None
    assert msgspec.json.decode(msgspec.json.encode(JOB), type=Compare | Ask) == JOB
