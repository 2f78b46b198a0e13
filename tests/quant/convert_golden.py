"""What transformers itself says of the tiny models: their logits, and the tokens of some texts.

`tests/quant/golden/convert.json` holds its answers. To ask again: install torch, transformers and numpy (made with 2.13.0, 5.23.0, 2.4.6),
then `python -m tests.quant.convert_golden`. All weights are 32-bit floats there. Logits are stored in thousandths.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

from tests.quant import convert_made, convert_tokenizers

FILE = Path(__file__).with_name("golden") / "convert.json"
KEPT = (0, 15, 47)  # positions of each prompt whose logits are kept; of all others only the best token
KINDS = (*convert_tokenizers.SPECIALS, "first", "never", "legacy")


def logits(name: str, folder: Path) -> dict[str, Any]:
    """Best token at every position of the prompts, and some rows of logits."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    path = convert_made.folder(folder / name, name)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    size = convert_made.config(name)["vocab_size"]
    with torch.no_grad():
        found = model(torch.tensor(convert_made.prompts(size))).logits
    rows = [[[round(1000 * value) for value in found[at, place].tolist()] for place in KEPT] for at in range(found.shape[0])]
    return {"best": found.argmax(-1).tolist(), "rows": rows}


def texts(kind: str) -> list[str]:
    """What the tokenizer of that kind is asked: the common texts, and some with its own tokens."""
    found = convert_tokenizers.made(kind)["added_tokens"]
    names = [entry["content"] for entry in found]
    mixed = [f"{names[-1]}Hello{names[-2]} world {names[-1]}\n", f"a{names[-1]}{names[-1]}b", f"{names[-1]}"]
    return [*convert_tokenizers.TEXTS, *mixed]


def tokens(kind: str, folder: Path) -> list[list[int]]:
    """Numbers of the tokens of `texts`, with what the tokenizer puts around them."""
    transformers: Any = importlib.import_module("transformers")
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(convert_tokenizers.made(kind, wide=True)), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}', encoding="utf-8")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text)["input_ids"] for text in texts(kind)]


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        models = {name: logits(name, Path(place)) for name in convert_made.MODELS}
        vocabularies = {kind: tokens(kind, Path(place) / "tokens" / kind) for kind in KINDS}
    FILE.write_text(json.dumps({"logits": models, "tokens": vocabularies}, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
