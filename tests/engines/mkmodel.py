"""Makes the tiny Llama model that the engine tests serve: `python mkmodel.py DIR`, with a Python that has torch and transformers.

4.5 million seeded random weights and a 4096-token byte-level BPE tokenizer, trained on the standard library's sources. What it writes
is noise and it never learned to stop, so bound every answer with `max_tokens`.
"""

# mypy: disable-error-code="import-not-found,import-untyped"

import argparse
import sys
import sysconfig
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT = 4096
VOCABULARY = 4096
SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
SOURCES = 120  # files of the standard library to train the tokenizer on
HEAD = 64  # an attention head size that both engines' CPU kernels know
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer() -> Any:
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:SOURCES]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train([str(path) for path in sources], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|begin|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def make_model(tokenizer: Any, hidden: int, layers: int, seed: int) -> Any:
    torch.manual_seed(seed)
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    heads = max(1, hidden // HEAD)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        initializer_range=0.2,
        dtype="bfloat16",
        **ends,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(**ends)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a tiny random Llama model with its tokenizer.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(args.out)
    model = make_model(tokenizer, args.hidden, args.layers, args.seed)
    model.save_pretrained(args.out, safe_serialization=True)
    sys.stdout.write(f"{args.out}: {sum(p.numel() for p in model.parameters())} parameters, {len(tokenizer)} tokens\n")


if __name__ == "__main__":
    main()
