"""What llama.cpp itself makes of small models, tensor by tensor: the script that asked it, and the models that it was asked about.

`tests/quant/golden/mixes.json` holds its answers. To ask again: install llama-cpp-python (0.3.36 carries llama.cpp 0c1e57098) and gguf,
then `python -m tests.quant.mixes_golden`. The models have real names and numbers of layers, heads and experts but tiny matrices: llama.cpp
looks at nothing else when it chooses.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from quant.mixes import MIXES, Facts

FILE = Path(__file__).with_name("golden") / "mixes.json"
ROWS = 2


class Model(msgspec.Struct, frozen=True):
    """A made-up model: its facts, its matrices' widths and which tensors it has beside the usual."""

    facts: Facts
    width: int = 256
    inner: int = 512
    tied: bool = False
    parts: tuple[str, ...] = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    more: tuple[str, ...] = ()  # whole names, two-dimensional
    metadata: Mapping[str, int | float] = {}
    importance: bool = False

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and dimensions (the row's length first) of every tensor."""
        yield "token_embd.weight", (self.width, ROWS)
        yield "output_norm.weight", (self.width,)
        if not self.tied:
            yield "output.weight", (self.width, ROWS)
        for name in self.more:
            yield name, (self.width, ROWS)
        for layer in range(self.facts.layers):
            yield f"blk.{layer}.attn_norm.weight", (self.width,)
            for part in self.parts:
                columns = self.inner if "ffn_down" in part else self.width
                dims = (columns, ROWS, self.facts.experts) if part.endswith("exps") else (columns, ROWS)
                yield f"blk.{layer}.{part}.weight", dims


_MOE = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
_QKV = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
_MLA = ("attn_q", "attn_kv_a_mqa", "attn_kv_b", "attn_output", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps",
        "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp")  # fmt: skip

MODELS: Mapping[str, Model] = {
    "llama-1b": Model(Facts("llama", 16, 32, 8), tied=True),
    "llama-8b": Model(Facts("llama", 32, 32, 8)),
    "llama-no-sharing": Model(Facts("llama", 7, 8, 8)),
    "llama-70b": Model(Facts("llama", 80, 64, 8)),
    "llama-65b": Model(Facts("llama", 80, 64, 64)),
    "llama-importance": Model(Facts("llama", 16, 32, 8), importance=True),
    "llama-2-layers": Model(Facts("llama", 2, 4, 2), tied=True),
    "llama-width-96": Model(Facts("llama", 9, 4, 1), width=96, inner=288),
    "llama-inner-80": Model(Facts("llama", 3, 4, 1), inner=80),
    "mixtral": Model(Facts("llama", 32, 32, 8, 8), parts=_MOE),
    "llama-4-experts": Model(Facts("llama", 12, 8, 2, 4), parts=_MOE),
    "qwen2-7b": Model(Facts("qwen2", 28, 28, 4), parts=("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")),
    "qwen2-72b": Model(Facts("qwen2", 80, 64, 8)),
    "qwen3-4b": Model(Facts("qwen3", 36, 32, 8), tied=True),
    "qwen3moe": Model(Facts("qwen3moe", 24, 32, 4, 128), parts=_MOE),
    "gemma3-1b": Model(Facts("gemma3", 26, 4, 1), width=1152, inner=6912 // 4, tied=True),
    "gemma3-4b": Model(Facts("gemma3", 34, 8, 4), tied=True),
    "phi3": Model(Facts("phi3", 32, 32, 32), parts=_QKV),
    "falcon": Model(Facts("falcon", 32, 71, 1), parts=_QKV, metadata={"attention.layer_norm_epsilon": 1e-5}),
    "gpt2": Model(
        Facts("gpt2", 12, 12, 12), parts=_QKV, tied=True, more=("position_embd.weight",), metadata={"attention.layer_norm_epsilon": 1e-5}
    ),
    "deepseek2": Model(
        Facts("deepseek2", 9, 16, 16, 64),
        parts=_MLA,
        metadata={
            "leading_dense_block_count": 0, "attention.q_lora_rank": 64, "attention.kv_lora_rank": 256,
            "expert_feed_forward_length": 64, "expert_shared_count": 1,
            "rope.dimension_count": 64, "expert_used_count": 2,
        },
    ),
}  # fmt: skip


def shapes(model: Model) -> list[tuple[str, tuple[int, ...], str]]:
    """(name, dimensions, type in the source) of every tensor: norms are F32, matrices F16."""
    return [(name, dims, "F32" if len(dims) == 1 else "F16") for name, dims in model.tensors()]


def write(model: Model, path: Path) -> None:
    """The model as a GGUF file with zeros for weights."""
    import gguf
    import numpy as np

    facts, arch = model.facts, model.facts.architecture
    writer = gguf.GGUFWriter(str(path), arch)
    numbers: dict[str, int | float] = {
        "block_count": facts.layers, "context_length": 512, "embedding_length": model.width, "feed_forward_length": model.inner,
        "attention.head_count": facts.heads, "attention.head_count_kv": facts.kv_heads, "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.sliding_window": 64,
    }  # fmt: skip
    if facts.experts:
        numbers |= {"expert_count": facts.experts, "expert_used_count": 2, "expert_feed_forward_length": 64}
    for key, value in (numbers | dict(model.metadata)).items():
        if isinstance(value, int):
            writer.add_uint32(f"{arch}.{key}", value)
        else:
            writer.add_float32(f"{arch}.{key}", value)
    for name, dims, kind in shapes(model):
        writer.add_tensor(name, np.zeros(dims[::-1], np.float32 if kind == "F32" else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _importance(llama_cpp: Any, model: Model) -> Any:
    """An importance matrix of ones for every tensor, in llama.cpp's form, ended by a nameless entry."""
    entries = [(name, dims[0] * (dims[2] if len(dims) > 2 else 1)) for name, dims in model.tensors()]
    made = (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))()
    for entry, (name, count) in zip(made, entries, strict=False):
        entry.name, entry.size = name.encode(), count
        entry.data = ctypes.cast((ctypes.c_float * count)(*([1.0] * count)), type(entry.data))
    return made


def ask(llama_cpp: Any, model: Model, name: str, folder: Path) -> dict[str, str] | None:
    """The type that llama.cpp gives each tensor; None where it refuses."""
    import gguf

    source, target = folder / "source.gguf", folder / "target.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = MIXES[name].file_type, 1
    kept = _importance(llama_cpp, model) if model.importance else None
    if kept is not None:
        params.imatrix = ctypes.cast(kept, type(params.imatrix))
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        return None
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(target).tensors}


def main() -> None:
    """Asks llama.cpp about every model and mix, and writes its answers. Takes a minute."""
    llama_cpp = importlib.import_module("llama_cpp")
    quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    answers: dict[str, Any] = {}
    for called, model in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            write(model, Path(folder) / "source.gguf")
            asked = {name: ask(llama_cpp, model, name, Path(folder)) for name in MIXES}
        kinds = sorted({kind for types in asked.values() if types for kind in types.values()})
        answers[called] = {
            "tensors": next((len(types) for types in asked.values() if types), 0),
            "kinds": kinds,  # of every mix one letter a tensor, in the order in which llama.cpp wrote them: "a" is the first kind
            "mixes": {name: types and "".join(chr(97 + kinds.index(kind)) for kind in types.values()) for name, types in asked.items()},
            "order": [name for name in next((types for types in asked.values() if types), {})][:12],
        }
    FILE.write_text(json.dumps({"llama-cpp-python": llama_cpp.__version__, "models": answers}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
