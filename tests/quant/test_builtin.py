"""The built-in model: the shipped file, the data that trained it, and its answers through the real engine."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import gguf
import pytest

from quant import builtin
from quant.builtin import tokenizer as bpe
from quant.builtin.phrases import instruction_words
from quant.builtin.sampling import Sampler, held_out
from quant.builtin.talk import SHARES, TASKS, conversation, tool
from quant.builtin.template import CHAT_TEMPLATE, renderer, tool_call_text

ROOT = Path(__file__).resolve().parents[2]
LIMIT_BYTES = 4 * 1024 * 1024


def _field(reader: object, key: str) -> object:
    field = reader.fields[key]  # type: ignore[attr-defined]
    return field.contents()


def test_the_package_is_light() -> None:
    code = "import sys, quant.builtin as b; b.path(); print(sorted({'torch', 'gguf', 'numpy', 'tokenizers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_shipped_file_is_small_and_where_it_is_said_to_be() -> None:
    shipped = builtin.path()
    assert shipped.name == f"{builtin.MODEL_NAME}.gguf"
    assert shipped.read_bytes()[:4] == b"GGUF"
    assert shipped.stat().st_size <= LIMIT_BYTES


def test_the_shipped_files_metadata() -> None:
    reader = gguf.GGUFReader(builtin.path())
    assert _field(reader, "general.architecture") == "llama"
    assert _field(reader, "general.name") == builtin.MODEL_NAME
    assert _field(reader, "tokenizer.chat_template") == CHAT_TEMPLATE
    assert _field(reader, "tokenizer.ggml.pre") == "qwen2"
    tokens = _field(reader, "tokenizer.ggml.tokens")
    assert isinstance(tokens, list)
    assert tokens[_field(reader, "tokenizer.ggml.eos_token_id")] == "<|im_end|>"  # type: ignore[call-overload]
    context = _field(reader, "llama.context_length")
    assert isinstance(context, int) and context >= 2048


def test_every_matrix_can_be_k_quantised() -> None:
    matrices = [t for t in gguf.GGUFReader(builtin.path()).tensors if len(t.shape) == 2]
    assert len(matrices) == 4 * 7 + 1
    for tensor in matrices:
        assert tensor.shape[0] % 256 == 0, tensor.name
        assert tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0, tensor.name


def test_training_never_sees_a_held_out_word() -> None:
    sampler = Sampler(random.Random(5), prefixes=["wor", "cap"])
    assert not any(held_out(sampler.word()) for _ in range(3000))
    assert not any(held_out(word) for _ in range(500) for word in sampler.words(2, 5).split(" "))
    assert not any(held_out(f"{a}+{b}") for a, b in (sampler.pair() for _ in range(3000)))


def test_the_last_phase_may_draw_instruction_words_and_evaluation_never_does() -> None:
    taught = instruction_words()
    sampler = Sampler(random.Random(5), prefixes=["wor"], taught=taught, prefix_share=0.25)
    drawn = {sampler.word() for _ in range(3000)}
    assert any(held_out(word) for word in drawn)
    assert all(word in taught for word in drawn if held_out(word))
    asked = Sampler(random.Random(5), evaluation=True, taught=taught)
    assert not any((word := asked.word()) in taught or not held_out(word) for _ in range(1000))


def test_evaluation_asks_only_for_held_out_payloads() -> None:
    sampler = Sampler(random.Random(5), evaluation=True, taught=instruction_words())
    for _ in range(200):
        for name in ("repeat", "reverse", "spell"):
            answer = TASKS[name](sampler).answer
            word = answer[::-1] if name == "reverse" else answer.replace("-", "") if name == "spell" else answer
            assert word.isdigit() or held_out(word), (name, answer)
        assert held_out("{}+{}".format(*re.findall(r"\d+", TASKS["add"](sampler).question)))


def test_hold_out_ignores_case_and_keeps_about_an_eighth() -> None:
    assert held_out("Banana") == held_out("banana") == held_out(" BANANA ")
    share = sum(held_out(f"{a}+{b}") for a in range(100) for b in range(100)) / 10000
    assert 0.09 < share < 0.16


def test_answers_are_right() -> None:
    sampler = Sampler(random.Random(11))
    for _ in range(200):
        added = TASKS["add"](sampler)
        assert sum(int(n) for n in re.findall(r"\d+", added.question)) == int(added.answer)
        assert isinstance(json.loads(TASKS["json"](sampler).answer), dict)
        called = TASKS["tool_call"](sampler)
        assert called.call is not None and called.tools is not None
        assert called.call[0] in [t["function"]["name"] for t in called.tools]
        assert called.answer == tool_call_text(*called.call)


def test_the_data_are_the_same_for_a_seed() -> None:
    one, two = (Sampler(random.Random(3)) for _ in range(2))
    assert [conversation(one) for _ in range(50)] == [conversation(two) for _ in range(50)]
    assert set(SHARES) == set(TASKS)


def test_the_template_renders() -> None:
    render = renderer()
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "tea"}]
    assert render([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}], None, True) == (
        "<|system|>Be brief.<|im_end|><|user|>Say tea<|im_end|><|assistant|>"
    )
    call = {"id": "x", "type": "function", "function": {"name": "add", "arguments": {"a": 3, "b": 4}}}
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "3+4"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "x", "content": "7"},
    ]
    assert render(talk, [tool("add", "a", "b"), tool("ping")]) == (
        "<|system|>Be brief.\nTools:\nadd(a, b)\nping()<|im_end|><|user|>3+4<|im_end|><|assistant|>"
        '<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 4}}\n</tool_call><|im_end|><|tool|>7<|im_end|>'
    )


def test_the_tokenizer_keeps_payloads_single() -> None:
    merges = bpe.learn(["Repeat the word stone", "Repeat the word tower"], 2, 300)
    tokenizer = bpe.build(merges)
    assert tokenizer.encode("Repeat the word: sower").tokens == ["Repeat", "Ġthe", "Ġword", ":", "Ġ", *"sower"]
    assert tokenizer.decode(tokenizer.encode("Repeat: näive 🦙 12").ids) == "Repeat: näive 🦙 12"
    assert tokenizer.get_vocab_size() % 32 == 0


@pytest.mark.timeout(300)
def test_the_real_engine_gives_right_answers() -> None:
    command = [sys.executable, "-m", "quant.builtin.evaluate", "--per-task", "6", "--seed", "2", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.stdout.strip(), done.stderr[-2000:]
    scores = json.loads(done.stdout.strip().splitlines()[-1])
    assert scores["all"] >= 0.9, scores
