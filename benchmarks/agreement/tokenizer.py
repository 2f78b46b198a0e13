"""A tokenizer that needs no download: every byte is a token. Both other clients want one to make their prompts; answers are counted by the
server, so that it is in no figure. The format is that of Hugging Face's `tokenizers` (tokenizer.json): byte-level BPE without a merge."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.bench.errors import BenchError

_END = "<|end|>"


def alphabet() -> dict[str, int]:
    """Each of the 256 bytes by the printable character that stands for it in such a file, as GPT-2 chose them: printable ones of Latin-1
    stand for themselves, the others are counted up from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    found, other = {}, 0x100
    for byte in range(256):
        if byte in printable:
            found[chr(byte)] = byte
        else:
            found[chr(other)] = byte
            other += 1
    return found


def documents() -> dict[str, object]:
    """The files of its folder, by name. Pure."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    end = {"id": 256, "content": _END, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    model: dict[str, object] = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": alphabet() | {_END: 256}, "merges": [],
    }  # fmt: skip
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end], "normalizer": None, "pre_tokenizer": level,
        "post_processor": None, "decoder": level, "model": model,
    }  # fmt: skip
    kind = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 1 << 20,
        "eos_token": _END,
        "clean_up_tokenization_spaces": False,
    }
    return {"tokenizer.json": whole, "tokenizer_config.json": kind}


def write(folder: Path) -> Path:
    """Writes it into `folder`, which is made where it is missing, over what is there; the folder. Blocks. BenchError: it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, document in documents().items():
            (folder / name).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{folder} cannot be written ({error.strerror or error}); name another --cache") from None
    return folder
