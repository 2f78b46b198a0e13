"""A real llama.cpp, the built-in model, and our own rendering and tokenising of its prompts."""

from __future__ import annotations

import json
from pathlib import Path

import gguf

from backends.prompts import agrees, probes, prompter, verify
from quant import builtin
from quant.builtin import tokenizer as toy
from quant.builtin.template import CHAT_TEMPLATE
from tests.backends.engines.watched import Watched, call, llamacpp, run
from tests.backends.prompts import made

ASKED = {"role": "user", "content": "<x>"}
SCHEMA = {"type": "object", "properties": {"p": {"type": "string"}}}
DOCS: list[dict[str, object]] = [
    {"messages": [{"role": "user", "content": "Repeat: banana"}]},
    {"messages": [{"role": "system", "content": "S "}, {"role": "user", "content": " ü\n"}, {"role": "assistant", "content": ""}, ASKED]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
    {"messages": [ASKED], "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]},
]  # fmt: skip


def folder(path: Path) -> Path:
    """The built-in model's tokenizer and template as transformers would write them."""
    merges = gguf.GGUFReader(builtin.path()).fields["tokenizer.ggml.merges"].contents()
    return made.folder(path, CHAT_TEMPLATE, toy.build([tuple(merge.split(" ")) for merge in merges]).to_str())


def test_the_engine_counts_what_we_count(tmp_path: Path) -> None:
    p = prompter(str(folder(tmp_path)), made.HASHING, engine="llamacpp")

    async def scenario(watched: Watched) -> None:
        await watched.supervisor.apply([llamacpp(Path(builtin.path()), context=1024)])
        engine = await watched.ready("toy#0")

        async def fetch(path: str, body: bytes) -> bytes:
            return json.dumps((await call(engine, path, json.loads(body)))[1]).encode()

        differing = {probe.feature for probe in probes(p) if not agrees(p, probe, await fetch(probe.path, probe.body))}
        assert differing <= {"parts"}, "the template walks over parts, but llama.cpp joins texts before it sees them"
        assert await verify(p, fetch) and p.mode == "tokens"
        assert p.rendered is not None and p.rendered.refused == frozenset() and p.rendered.form == "string"
        for doc in DOCS:
            one = p.prompt(made.call(doc))
            status, reply = await call(engine, "/v1/chat/completions", {**doc, "max_tokens": 1})
            assert (status, one.exact, one.tokens) == (200, True, reply["usage"]["prompt_tokens"])

    run(scenario)
