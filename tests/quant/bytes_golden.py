"""The whole files that llama.cpp itself makes, by their SHA-256: the script that asked it, and of what.

`tests/quant/golden/files.json` holds its answers. To ask again: install llama-cpp-python (0.3.36 carries llama.cpp 0c1e57098), gguf and
numpy, then `python -m tests.quant.bytes_golden`. Beside digests nothing of those files is needed: ours must be equal.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from quant import builtin
from quant.makers import Asked
from quant.makers_child import quantise
from quant.mixes import MIXES
from tests.quant import made

FILE = Path(__file__).with_name("golden") / "files.json"
_SOME = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q4_0", "Q3_K_M", "Q2_K")
SOURCES: Mapping[str, Sequence[str]] = {  # and the kinds to make of each
    "builtin": tuple(MIXES), "llama-f16": _SOME, "llama-bf16": _SOME[::3], "llama-f32": _SOME[::3], "llama-width-160": _SOME[::2],
    "mixtral": _SOME[1::3], "llama-f16-importance": _SOME[3:], "mixtral-importance": _SOME[1::3],
}  # fmt: skip


def source(name: str, folder: Path) -> tuple[Path, Path | None]:
    """The model of that name, made in `folder`, and the importance matrix to use with it."""
    path = folder / f"{name}.gguf"
    if name == "builtin":
        return builtin.path(), None
    if name == "llama-width-160":
        return made.llama(path, width=160, inner=288), None
    if name.startswith("mixtral"):
        made.llama(path, experts=4)
        sizes = {f"blk.{layer}.{part}.weight": (4, columns) for layer in (0, 1) for part, columns in _EXPERTS.items()}
    else:
        made.llama(path, kind=name.split("-")[1].upper())
        sizes = {f"blk.{layer}.{part}.weight": (1, columns) for layer in (0, 1) for part, columns in _PLAIN.items()}
    return path, made.importance(folder / f"{name}.imatrix", sizes) if name.endswith("importance") else None


_PLAIN: Mapping[str, int] = {"attn_q": 256, "attn_k": 256, "attn_v": 256, "ffn_gate": 256, "ffn_up": 256, "ffn_down": 512}
_EXPERTS: Mapping[str, int] = {"ffn_gate_exps": 256, "ffn_up_exps": 256, "ffn_down_exps": 512}


def digest(path: Path) -> str:
    """What of the file is kept."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:24]


def main() -> None:
    """Has llama.cpp make every file, and writes their digests. Takes a minute."""
    llama_cpp = importlib.import_module("llama_cpp")
    answers: dict[str, dict[str, str]] = {}
    for name, kinds in SOURCES.items():
        with tempfile.TemporaryDirectory() as folder:
            path, importance = source(name, Path(folder))
            target = Path(folder) / "target.gguf"
            for kind in kinds:
                asked = Asked(str(path), str(target), kind, MIXES[kind].file_type, 1, str(importance or ""))
                assert quantise(llama_cpp, asked) == 0, (name, kind)
                answers.setdefault(name, {})[kind] = digest(target)
    FILE.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
