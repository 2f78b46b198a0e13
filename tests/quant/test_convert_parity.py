"""Converted models against transformers (`convert_golden.py`): the same logits from a real llama.cpp, the same tokens of every text."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from quant import convert_names
from quant.convert import Report, convert
from tests.quant import convert_engine, convert_golden, convert_made, convert_tokenizers

GOLDEN: dict[str, Any] = json.loads(convert_golden.FILE.read_text(encoding="utf-8"))
NEAR = 0.03  # logits: what 16 bits may decide otherwise, of a spread of 1.2
_COSINE = {"F16": 0.999, "F32": 0.9999, "BF16": 0.99, "Q8_0": 0.95}
_BEST = {"F16": 0.98, "F32": 0.98, "BF16": 0.93, "Q8_0": 0.85}


def cosine(one: Any, other: Any) -> float:
    """The smallest of all rows'."""
    product = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
    return float(product.min())


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], tuple[Report, Any]]]:
    """Each model in each type: what was made, and its logits (prompt, position, token)."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[tuple[str, str], Report] = {}
    for at, name in enumerate(convert_made.MODELS):
        source = convert_made.folder(folder / name, name, shards=1 + at % 3)
        for kind in _COSINE:
            made[name, kind] = convert(source, folder / f"{name}-{kind}.gguf", kind, maker="own", threads=2)
    questions = [
        {"file": report.target, "prompts": convert_made.prompts(convert_made.config(name)["vocab_size"])}
        for (name, _), report in made.items()
    ]
    answers = convert_engine.ask(questions)
    yield {key: (made[key], np.array(answer)) for key, answer in zip(made, answers, strict=True)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", _COSINE)
def test_logits_are_those_of_transformers(answered: dict[tuple[str, str], tuple[Report, Any]], kind: str) -> None:
    for name in convert_made.MODELS:
        found, golden = answered[name, kind][1], GOLDEN["logits"][name]
        assert cosine(found[:, list(convert_golden.KEPT)], np.array(golden["rows"]) / 1000) >= _COSINE[kind], (name, kind)
        assert float((found.argmax(-1) == np.array(golden["best"])).mean()) >= _BEST[kind], (name, kind)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", sorted({entry[2] for entry in convert_made.MODELS.values()}))
def test_each_family_has_the_same_best_token_in_16_bits(answered: dict[tuple[str, str], tuple[Report, Any]], family: str) -> None:
    same, count = 0, 0
    for name in (name for name, entry in convert_made.MODELS.items() if entry[2] == family):
        found, best = answered[name, "F16"][1], np.array(GOLDEN["logits"][name]["best"])
        others = found.argmax(-1) != best
        lost = found.max(-1) - np.take_along_axis(found, best[..., None], -1)[..., 0]
        assert float(lost[others].max(initial=0)) <= NEAR, name  # only where two were all but equal
        same, count = same + int((~others).sum()), count + best.size
    assert same / count >= 0.99, (family, same, count)


@pytest.mark.timeout(300)
def test_what_is_wrong_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the change of rows, and without the stretched positions, the logits are others: the comparison above says something."""
    wrong = []
    with monkeypatch.context() as patch:
        patch.setattr(convert_names, "rows", lambda data, head, row: data)
        wrong.append(convert(convert_made.folder(tmp_path / "a", "llama3"), tmp_path / "a.gguf", "F16", maker="own"))
    for name in ("llama3", "llama-linear", "llama-yarn", "qwen2-yarn"):
        source = convert_made.folder(tmp_path / name, name)
        settings = json.loads((source / "config.json").read_text()) | {"rope_scaling": None}
        (source / "config.json").write_text(json.dumps(settings))
        wrong.append(convert(source, tmp_path / f"{name}.gguf", "F16", maker="own"))
    names = ["llama3", "llama3", "llama-linear", "llama-yarn", "qwen2-yarn"]
    size = {name: convert_made.config(name)["vocab_size"] for name in names}
    questions = [{"file": made.target, "prompts": convert_made.prompts(size[name])} for made, name in zip(wrong, names, strict=True)]
    for name, answer in zip(names, convert_engine.ask(questions), strict=True):
        rows = np.array(answer)[:, list(convert_golden.KEPT)]
        assert cosine(rows, np.array(GOLDEN["logits"][name]["rows"]) / 1000) < 0.995, name


def vocabulary(folder: Path, kind: str, *, chat: bool = True) -> Report:
    """A model whose tokenizer is of that kind."""
    name = next(name for name, entry in convert_made.MODELS.items() if entry[0] == ("first" if kind in ("never", "legacy") else kind))
    convert_made.folder(folder, name)
    tokenizer = convert_tokenizers.made(kind, wide=True)
    settings = convert_made.config(name) | {"vocab_size": convert_tokenizers.size(tokenizer)}
    told = json.loads((folder / "tokenizer_config.json").read_text())
    told |= {} if chat else {"chat_template": None}
    for file, value in (("config.json", settings), ("tokenizer.json", tokenizer), ("tokenizer_config.json", told)):
        (folder / file).write_text(json.dumps(value), encoding="utf-8")
    convert_made.tensors(folder, convert_made.weights(settings, 1), "BF16")
    return convert(folder, folder / "made.gguf", "F16", maker="own")


_SPOKEN = {  # where llama.cpp is known to differ, and the report says so: texts with these are left out
    "tekken": ("e\u0301", "ΣΊΣΥΦΟΣ"), "qwen2": ("e\u0301",),
}  # fmt: skip


@pytest.mark.timeout(300)
def test_every_text_has_the_tokens_that_transformers_gives_it(tmp_path: Path) -> None:
    made = {kind: vocabulary(tmp_path / kind, kind) for kind in convert_golden.KINDS}
    base = vocabulary(tmp_path / "base", "first", chat=False)
    texts = {kind: convert_golden.texts(kind) for kind in made}
    questions = [{"file": made[kind].target, "texts": texts[kind]} for kind in made]
    *answers, plain = convert_engine.ask([*questions, {"file": base.target, "texts": texts["first"]}])
    for kind, answer in zip(made, answers, strict=True):
        for text, found, golden in zip(texts[kind], answer, GOLDEN["tokens"][kind], strict=True):
            if any(part in text for part in _SPOKEN.get(kind, ())) or (kind == "first" and not text.startswith("[")):
                assert made[kind].notes
            else:
                assert found == golden, (kind, text)
    for text, found, golden in zip(texts["first"], plain, GOLDEN["tokens"]["first"], strict=True):
        assert found == golden or "[/INST]" in text or text.startswith(" "), text  # without a template: the note says what differs


_LETTERS = (
    "abcXYZ", "'s 'T 're 'VE", "0123456789", " \t\n\r  ", "éÉàßøñÇÅ", "我想日本語カタ한국", "😀🚀\u200d\ufe0f👩",
    "!?.,;:-=/<>|@#$%^&*()[]{}\"`~_+",
    "ЖдеЯ", "ΑβΣς", "किक्षि", "عربي٣", "\u00a0\u2003\u3000\u200b\u0085\u2028", "½²Ⅷ①", "\u0301\u0300\u0308",
)  # fmt: skip


@pytest.mark.timeout(300)
def test_texts_at_random_have_the_tokens_that_the_tokenizers_library_gives_them(tmp_path: Path) -> None:
    source = random.Random(7)
    texts = ["".join(source.choice(source.choice(_LETTERS)) for _ in range(source.randrange(1, 30))) for _ in range(600)]
    kinds = [kind for kind in convert_golden.KINDS if kind not in ("tekken", "first")]
    made = [vocabulary(tmp_path / kind, kind) for kind in kinds]
    answers = convert_engine.ask([{"file": report.target, "texts": texts} for report in made])
    for kind, answer in zip(kinds, answers, strict=True):
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(convert_tokenizers.made(kind, wide=True)))
        for text, found in zip(texts, answer, strict=True):
            composed = kind != "qwen2" or unicodedata.is_normalized("NFC", text)
            assert not composed or tokenizer.encode(text).ids == found, (kind, text)


def test_the_tokenizers_library_agrees_with_what_was_kept() -> None:
    for kind in convert_golden.KINDS:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(convert_tokenizers.made(kind, wide=True)))
        assert [tokenizer.encode(text).ids for text in convert_golden.texts(kind)] == GOLDEN["tokens"][kind], kind
