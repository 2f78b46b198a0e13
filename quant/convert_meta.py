"""A converted model's metadata, as llama.cpp reads them (`src/llama-arch.cpp`, ggml's `docs/gguf.md`): sizes, rotary positions, vocabulary,
chat templates, licence and origin. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import yaml

from quant.convert_config import Shape
from quant.convert_names import Family
from quant.convert_source import ConvertError, Settings
from quant.convert_tokens import Tokens, content
from quant.tensors import Pair

# ggml's gguf.h, `enum gguf_type`
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
FILE_TYPES: Mapping[str, int] = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}  # llama.h, `enum llama_ftype`
QUANTISATION_VERSION = 2  # ggml.h, GGML_QNT_VERSION
_ROLES = ("bos", "eos", "unk", "pad", "sep", "mask")
_KEYS = {"unk": "unknown", "pad": "padding", "sep": "seperator"}  # the last as llama.cpp spells it
MAX_CARD = 1 << 16  # characters of a model card's head


class Card(msgspec.Struct, frozen=True):
    """What else is told of a model. `templates`: of chat, by name ("default" and others). `repository`: an address, or ""."""

    name: str
    license: str = ""
    license_name: str = ""
    license_link: str = ""
    repository: str = ""
    templates: Mapping[str, str] = {}


def text(key: str, value: str) -> Pair:
    return Pair(key, _string(key) + struct.pack("<I", _STRING) + _string(value))


def number(key: str, value: int) -> Pair:
    return Pair(key, _string(key) + struct.pack("<II", _U32, value))


def real(key: str, value: float) -> Pair:
    return Pair(key, _string(key) + struct.pack("<If", _F32, value))


def flag(key: str, value: bool) -> Pair:
    return Pair(key, _string(key) + struct.pack("<I?", _BOOL, value))


def texts(key: str, values: Sequence[str]) -> Pair:
    raw = b"".join(map(_string, values))
    return Pair(key, _string(key) + struct.pack("<IIQ", _ARRAY, _STRING, len(values)) + raw)


def numbers(key: str, values: Sequence[int]) -> Pair:
    return Pair(key, _string(key) + struct.pack(f"<IIQ{len(values)}i", _ARRAY, _I32, len(values), *values))


def reals(key: str, values: Sequence[float]) -> Pair:
    return Pair(key, _string(key) + struct.pack(f"<IIQ{len(values)}f", _ARRAY, _F32, len(values), *values))


def _string(value: str) -> bytes:
    raw = value.encode("utf-8", "replace")
    return struct.pack("<Q", len(raw)) + raw


def general(card: Card, family: Family, kind: str, weights: int) -> list[Pair]:
    """What the file is. `kind`: of its matrices; `weights`: how many."""
    made = [text("general.architecture", family.arch), text("general.type", "model"), text("general.name", card.name)]
    label = f"{weights / 1e9:.1f}B" if weights >= 1e9 else f"{weights / 1e6:.0f}M" if weights >= 1e6 else f"{weights / 1e3:.0f}K"
    made += [text("general.size_label", label), number("general.file_type", FILE_TYPES[kind])]
    made.append(number("general.quantization_version", QUANTISATION_VERSION))
    told = {
        "general.license": card.license, "general.license.name": card.license_name, "general.license.link": card.license_link,
        "general.source.repo_url": card.repository,
    }  # fmt: skip
    return [*made, *(text(key, value) for key, value in told.items() if value)]


def sizes(shape: Shape, family: Family) -> list[Pair]:
    """How large the model is and how it counts positions."""
    arch, rope = family.arch, shape.rope
    made = [
        number(f"{arch}.block_count", shape.layers), number(f"{arch}.context_length", shape.context),
        number(f"{arch}.embedding_length", shape.width), number(f"{arch}.feed_forward_length", shape.inner),
        number(f"{arch}.attention.head_count", shape.heads), number(f"{arch}.attention.head_count_kv", shape.kv_heads),
        number(f"{arch}.attention.key_length", shape.head), number(f"{arch}.attention.value_length", shape.head),
        real(f"{arch}.attention.layer_norm_rms_epsilon", shape.epsilon), number(f"{arch}.rope.dimension_count", shape.head),
        real(f"{arch}.rope.freq_base", rope.theta), number(f"{arch}.vocab_size", shape.vocabulary),
    ]  # fmt: skip
    if rope.kind in ("linear", "yarn"):
        made += [text(f"{arch}.rope.scaling.type", rope.kind), real(f"{arch}.rope.scaling.factor", rope.factor)]
    if rope.kind == "yarn":
        made += [
            number(f"{arch}.rope.scaling.original_context_length", rope.original), real(f"{arch}.rope.scaling.attn_factor", rope.attention),
            real(f"{arch}.rope.scaling.yarn_beta_fast", rope.beta_fast), real(f"{arch}.rope.scaling.yarn_beta_slow", rope.beta_slow),
        ]  # fmt: skip
    return made


def vocabulary(tokens: Tokens, ids: Mapping[str, int]) -> list[Pair]:
    """The tokenizer. `ids`: of `special`."""
    made = [text("tokenizer.ggml.model", tokens.model), text("tokenizer.ggml.pre", tokens.pre)]
    made.append(texts("tokenizer.ggml.tokens", tokens.texts))
    if tokens.scores:
        made.append(reals("tokenizer.ggml.scores", tokens.scores))
    made.append(numbers("tokenizer.ggml.token_type", tokens.kinds))
    if tokens.merges:
        made.append(texts("tokenizer.ggml.merges", tokens.merges))
    made += [number(f"tokenizer.ggml.{_KEYS.get(role, role)}_token_id", value) for role, value in ids.items()]
    made += [flag("tokenizer.ggml.add_bos_token", tokens.first is not None), flag("tokenizer.ggml.add_eos_token", tokens.last is not None)]
    if tokens.space is not None:
        made.append(flag("tokenizer.ggml.add_space_prefix", tokens.space))
    return made


def templates(found: Mapping[str, str]) -> list[Pair]:
    """The chat templates, the default one under llama.cpp's own key."""
    made = [text("tokenizer.chat_template", found["default"])] if "default" in found else []
    others = sorted(name for name in found if name != "default")
    made += [texts("tokenizer.chat_templates", others)] if others else []
    return [*made, *(text(f"tokenizer.chat_template.{name}", found[name]) for name in others)]


def special(tokens: Tokens, config: Settings, model: Settings, generation: Settings) -> dict[str, int]:
    """The numbers of tokens with a role. `config`: of tokenizer_config.json, then config.json and generation_config.json. Raises
    `ConvertError` where nothing ends a text, or where what is put around texts has another role."""
    places = {token: place for place, token in enumerate(tokens.texts)}
    made: dict[str, int] = {}
    for role in _ROLES:
        said = content(config.values.get(f"{role}_token"))
        found = places.get(said) if said is not None else None
        for other in (model, generation):
            found = _first(other.values.get(f"{role}_token_id"), len(places)) if found is None else found
        if found is not None:
            made[role] = found
    if tokens.unknown is not None:
        made.setdefault("unk", tokens.unknown)
    for role, put in (("bos", tokens.first), ("eos", tokens.last)):
        if put is not None and put not in places:
            raise ConvertError(f"The tokenizer puts {put[:40]!r} around texts, which is none of its tokens.")
        if put is not None:
            made[role] = places[put]
    if "eos" not in made:
        raise ConvertError("No token of the model ends a text (eos_token in tokenizer_config.json or eos_token_id in config.json).")
    ends = generation.values.get("eos_token_id")
    further = [end for end in ends if _first(end, len(places)) is not None and end != made["eos"]] if isinstance(ends, list) else []
    return made | ({"eot": further[0]} if further else {})


def _first(value: Any, size: int) -> int | None:
    found = value[0] if isinstance(value, list) and value else value
    return found if type(found) is int and 0 <= found < size else None


def card(front: str | None) -> dict[str, str]:
    """Licence of a model card (README.md): what stands in its head between two lines of dashes. What cannot be read is left out."""
    if not front or not front.startswith("---"):
        return {}
    head, found, _ = front[3:MAX_CARD].partition("\n---")
    try:
        values = yaml.safe_load(head) if found else None
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    told = values if isinstance(values, dict) else {}
    return {key: str(told[key])[:200] for key in ("license", "license_name", "license_link") if isinstance(told.get(key), str)}
