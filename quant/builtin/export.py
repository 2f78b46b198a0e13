"""Write the trained toy as a GGUF: ``python -m quant.builtin.export --run DIR [--out FILE] [--type Q8_0]``.

llama.cpp's ``llama`` architecture rotates neighbouring pairs, PyTorch's half-split layout pairs ``i`` with ``i + d/2``: the rows of Q and
K are permuted on the way. Norms stay F32, every matrix becomes Q8_0 (or F16, F32); the embedding is tied, so there is no output matrix.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch

from . import MODEL_NAME, path
from . import tokenizer as bpe
from .model import Config
from .template import CHAT_TEMPLATE

_TYPES = {
    "Q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "F16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "F32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
}
_NAMES = {
    "attn_norm": "attn_norm", "ffn_norm": "ffn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
    "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}  # fmt: skip

Array = npt.NDArray[np.float32]


def permute(weight: Array, heads: int) -> Array:
    """Rows of a Q or K matrix from the half-split to the interleaved rotary layout."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tensors(weights: dict[str, Any], c: Config) -> Iterator[tuple[str, Array]]:
    """llama.cpp's tensor names with their float32 values."""
    for name, value in weights.items():
        array: Array = np.ascontiguousarray(value.numpy(), dtype=np.float32)
        if name == "embed.weight":
            yield "token_embd.weight", array
        elif name == "norm.weight":
            yield "output_norm.weight", array
        else:
            _, layer, part, _ = name.split(".")
            if part in "qk":
                array = permute(array, c.heads if part == "q" else c.kv_heads)
            yield f"blk.{layer}.{_NAMES[part]}.weight", array


def _metadata(writer: gguf.GGUFWriter, c: Config, parameters: int) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(MODEL_NAME)
    writer.add_organization("Pointsman")
    writer.add_license("apache-2.0")
    writer.add_description("The toy model built into Pointsman, trained on synthetic data by quant/builtin; it answers a few fixed tasks.")
    writer.add_size_label(f"{parameters / 1e6:.1f}M")
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.hidden)
    writer.add_block_count(c.layers)
    writer.add_feed_forward_length(c.ffn)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_layer_norm_rms_eps(c.eps)
    writer.add_vocab_size(c.vocabulary)


def _vocabulary(writer: gguf.GGUFWriter, merges: list[tuple[str, str]]) -> None:
    tokenizer = bpe.build(merges)
    size = tokenizer.get_vocab_size()
    first_special = tokenizer.token_to_id(bpe.SPECIALS[0])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([tokenizer.id_to_token(i) for i in range(size)])
    writer.add_token_types([gguf.TokenType.NORMAL if i < first_special else gguf.TokenType.CONTROL for i in range(size)])
    writer.add_token_merges([f"{a} {b}" for a, b in merges])
    writer.add_eos_token_id(tokenizer.token_to_id(bpe.END))
    writer.add_eot_token_id(tokenizer.token_to_id(bpe.END))
    writer.add_pad_token_id(first_special)
    writer.add_bos_token_id(first_special)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def export(run: Path, out: Path, kind: str = "Q8_0") -> int:
    """Write the GGUF of a training folder; returns its size in bytes."""
    state = torch.load(run / "model.pt", weights_only=True)
    config = Config(**state["config"])
    weights = dict(tensors(state["weights"], config))
    tensor_type, file_type = _TYPES[kind]
    writer = gguf.GGUFWriter(out, "llama")
    _metadata(writer, config, sum(w.size for w in weights.values()))
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _vocabulary(writer, bpe.load(run / "merges.json"))
    for name, array in weights.items():
        stored = tensor_type if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out.stat().st_size


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder that quant.builtin.train wrote")
    parser.add_argument("--out", type=Path, default=path(), help="the GGUF to write (default: the shipped one)")
    parser.add_argument("--type", choices=sorted(_TYPES), default="Q8_0")
    arguments = parser.parse_args()
    size = export(arguments.run, arguments.out, arguments.type)
    sys.stdout.write(f"{arguments.out}: {size} bytes\n")


if __name__ == "__main__":
    main()
