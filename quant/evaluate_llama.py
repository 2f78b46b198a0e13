"""llama.cpp's own functions, called in this process: a model's logits for every token of a text.

The installed `xllamacpp` exports llama.cpp's C interface (`include/llama.h`), whose parameters are structures that grow from version to
version. Here they are opaque memory, larger than any of them, that llama.cpp fills with its own defaults; only the first three numbers of
a context's parameters are ever set, once they are found to be what every version so far had there. llama.cpp ends its process where it is
called wrongly or a file lies, so this belongs in a child process (`evaluate_child`). Everything here blocks; nothing is thread-safe.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from quant import ggml

ROWS = 64  # tokens decoded at a time, each with its logits: 39 MB with a vocabulary of 152,000
MAX_TOKENS = 1 << 20
_DEFAULTS = (512, 2048, 512)  # llama_context_default_params: n_ctx, n_batch, n_ubatch
_ERROR = 4  # ggml.h, GGML_LOG_LEVEL_ERROR
_LAST = 8  # lines of the log that are kept for an error's text


class LlamaError(RuntimeError):
    """llama.cpp cannot be called or did not do it. `str()` is one sentence."""


class _Params(ctypes.Structure):
    """Room for `llama_model_params` or `llama_context_params` (some 100 bytes today). Both are passed in memory on every platform, so
    that the callee reads its part of it."""

    _fields_ = [("numbers", ctypes.c_uint32 * 3), ("rest", ctypes.c_char * 1012)]


class _Batch(ctypes.Structure):
    """llama.h, `struct llama_batch`."""

    _fields_ = [
        ("count", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)), ("seqs", ctypes.POINTER(ctypes.c_int32)),
        ("seq", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("output", ctypes.POINTER(ctypes.c_int8)),
    ]  # fmt: skip


_P, _INT, _BOOL = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool
_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
# name -> (result, arguments), as in llama.h.
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_log_set": (None, (_LOG, _P)),
    "llama_backend_init": (None, ()),
    "llama_model_default_params": (_Params, ()),
    "llama_context_default_params": (_Params, ()),
    "llama_model_load_from_file": (_P, (ctypes.c_char_p, _Params)),
    "llama_model_free": (None, (_P,)),
    "llama_model_get_vocab": (_P, (_P,)),
    "llama_model_n_ctx_train": (_INT, (_P,)),
    "llama_model_has_encoder": (_BOOL, (_P,)),
    "llama_init_from_model": (_P, (_P, _Params)),
    "llama_free": (None, (_P,)),
    "llama_n_ctx": (ctypes.c_uint32, (_P,)),
    "llama_set_n_threads": (None, (_P, _INT, _INT)),
    "llama_get_memory": (_P, (_P,)),
    "llama_memory_clear": (None, (_P, _BOOL)),
    "llama_vocab_n_tokens": (_INT, (_P,)),
    "llama_vocab_bos": (_INT, (_P,)),
    "llama_vocab_is_eog": (_BOOL, (_P, _INT)),
    "llama_tokenize": (_INT, (_P, ctypes.c_char_p, _INT, ctypes.POINTER(_INT), _INT, _BOOL, _BOOL)),
    "llama_batch_init": (_Batch, (_INT, _INT, _INT)),
    "llama_batch_free": (None, (_Batch,)),
    "llama_decode": (_INT, (_P, _Batch)),
    "llama_get_logits_ith": (_P, (_P, _INT)),
}


def declared(dll: ctypes.CDLL, functions: dict[str, tuple[Any, tuple[Any, ...]]]) -> dict[str, Callable[..., Any]]:
    """The functions of a library by name, ready to be called. Raises `LlamaError` where one is missing."""
    made: dict[str, Callable[..., Any]] = {}
    for name, (result, arguments) in functions.items():
        try:
            function: Any = getattr(dll, name)
        except AttributeError:
            raise LlamaError(f"The installed xllamacpp does not export {name}; install a version that does (2026.10 or later).") from None
        function.restype, function.argtypes = result, list(arguments)
        made[name] = function
    return made


class Library:
    """llama.cpp, loaded (by `library`). `path`: the shared library. It must live as long as the process, which has one log."""

    def __init__(self, path: Path) -> None:
        try:
            self.dll = ctypes.CDLL(str(path))
        except OSError as error:
            raise LlamaError(f"llama.cpp's library {path.name} cannot be loaded: {error}.") from None
        self.call = declared(self.dll, _FUNCTIONS)
        self.said: deque[str] = deque(maxlen=_LAST)
        self._log = _LOG(self._heard)  # lives as long as llama.cpp may call it
        self.call["llama_log_set"](self._log, None)
        self.call["llama_backend_init"]()

    def _heard(self, level: int, text: bytes | None, data: Any) -> None:
        line = (text or b"").decode("utf-8", "replace").strip()
        if level == _ERROR and line:
            self.said.append(line[:300])

    def why(self) -> str:
        """The first thing that llama.cpp complained about of late: what follows from it comes after it."""
        return self.said[0] if self.said else "it does not say why"

    def parameters(self, context: int) -> _Params:
        """Those of a context of `context` tokens that decodes `ROWS` of them at a time."""
        made: _Params = self.call["llama_context_default_params"]()
        if tuple(made.numbers) != _DEFAULTS:
            raise LlamaError(
                f"The installed xllamacpp begins a context's parameters with {tuple(made.numbers)}; they are not known here. "
                "Install the version that Pointsman was released with."
            )
        made.numbers[0], made.numbers[1], made.numbers[2] = context, ROWS, ROWS
        return made


@lru_cache(maxsize=1)
def library() -> Library:
    """That of the installed xllamacpp. Blocks at the first call; raises `LlamaError` or `ggml.GgmlError`."""
    return Library(ggml.shared())


class Engine:
    """One model with one context. `context`: the most tokens of a text (fewer if the model was trained for fewer). Raises `LlamaError`."""

    def __init__(self, library: Library, path: str, context: int, threads: int) -> None:
        self._call, self._library, self.name = library.call, library, Path(path).name
        self._context = self._batch = None
        library.said.clear()
        self._model = self._call["llama_model_load_from_file"](path.encode(), self._call["llama_model_default_params"]())
        if not self._model:
            raise LlamaError(f"llama.cpp cannot load {self.name}: {library.why()}")
        try:
            self._begin(context, threads)
        except BaseException:
            self.close()
            raise

    def _begin(self, context: int, threads: int) -> None:
        call, model = self._call, self._model
        if call["llama_model_has_encoder"](model):
            raise LlamaError(f"{self.name} has an encoder; only models that write text alone are evaluated.")
        self._vocab = call["llama_model_get_vocab"](model)
        self.vocab = int(call["llama_vocab_n_tokens"](self._vocab))
        self.context = min(context, max(int(call["llama_model_n_ctx_train"](model)), 1))
        self._context = call["llama_init_from_model"](model, self._library.parameters(self.context))
        if not self._context or call["llama_n_ctx"](self._context) < self.context:
            raise LlamaError(f"llama.cpp makes no context of {self.context} tokens for {self.name}: {self._library.why()}")
        call["llama_set_n_threads"](self._context, threads, threads)
        self._batch = call["llama_batch_init"](ROWS, 0, 1)

    def close(self) -> None:
        """Gives everything back. Idempotent."""
        if self._batch is not None:
            self._call["llama_batch_free"](self._batch)
        if self._context:
            self._call["llama_free"](self._context)
        if self._model:
            self._call["llama_model_free"](self._model)
        self._model = self._context = self._batch = None

    def tokens(self, text: str, special: bool) -> list[int]:
        """A text in tokens, with those that the model wants around it. `special`: control tokens in it count as such."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 16
        if room > MAX_TOKENS:
            raise LlamaError(f"A text has {len(raw)} bytes; more than {MAX_TOKENS} are not evaluated.")
        found = (_INT * room)()
        count = int(self._call["llama_tokenize"](self._vocab, raw, len(raw), found, room, True, special))
        if count < 0:
            raise LlamaError(f"{self.name} cannot make tokens of a text.")
        made = list(found[:count])
        # A chat template may write the first token that the tokenizer adds as well.
        return made[1:] if made[:2] == [self._call["llama_vocab_bos"](self._vocab)] * 2 else made

    def ends(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return bool(self._call["llama_vocab_is_eog"](self._vocab, token))

    def clear(self) -> None:
        """Forgets every token."""
        self._call["llama_memory_clear"](self._call["llama_get_memory"](self._context), True)

    def decode(self, tokens: Sequence[int], start: int) -> list[int]:
        """Addresses of the logits behind each of at most `ROWS` tokens, `start` tokens after `clear`. Good until the next call."""
        # What llama.cpp would end the process for.
        if not 0 < len(tokens) <= ROWS or start + len(tokens) > self.context or not all(0 <= token < self.vocab for token in tokens):
            raise LlamaError(f"{self.name} cannot decode {len(tokens)} tokens at {start}.")
        batch = self._batch
        assert batch is not None
        batch.count = len(tokens)
        for at, token in enumerate(tokens):
            batch.token[at], batch.pos[at], batch.seqs[at], batch.output[at] = token, start + at, 1, 1
            batch.seq[at][0] = 0
        if status := self._call["llama_decode"](self._context, batch):
            raise LlamaError(f"llama.cpp cannot compute {self.name} (status {status}): {self._library.why()}")
        rows = [self._call["llama_get_logits_ith"](self._context, at) for at in range(len(tokens))]
        if not all(rows):
            raise LlamaError(f"llama.cpp gives no logits of {self.name}.")
        return rows
