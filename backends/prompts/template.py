"""A model's chat template, rendered as engines render it: jinja2 in its sandbox, with what transformers gives templates. Source:
transformers `utils/chat_template_utils.py`. jinja2 is imported only here, and only when a template is compiled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from importlib import import_module
from typing import Any, Literal

from backends.prompts.types import Unreadable

MAX_SOURCE = 1 << 20  # bytes of a template
MAX_RENDERED = 1 << 22  # characters of output besides four times what went in
_RESERVED = frozenset({
    "messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now",
    # and what transformers takes for itself
    "tokenize", "chat_template", "conversation", "continue_final_message", "padding", "truncation", "max_length", "return_tensors",
    "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
})  # fmt: skip
# A tag of transformers that marks what the model said and prints nothing; white space control stays as it is.
_MARKS = (
    (re.compile(r"(\{%[-+]?\s*)generation(\s*[-+]?%\})"), r"\1if true\2"),
    (re.compile(r"(\{%[-+]?\s*)endgeneration(\s*[-+]?%\})"), r"\1endif\2"),
)


class Template:
    """One compiled chat template. `content` is the form of contents that it asks for; `developer`, whether it knows that role."""

    def __init__(self, source: str, specials: Mapping[str, str], now: Callable[[], datetime]) -> None:
        """Compiles. Raises `Unreadable` for what is no template, and ImportError without jinja2."""
        if len(source.encode()) > MAX_SOURCE:
            raise Unreadable(f"the chat template has more than {MAX_SOURCE >> 20} MiB.")
        self._errors = _errors()
        environment = _environment(now)
        for mark, instead in _MARKS:
            source = mark.sub(instead, source)
        try:
            tree = environment.parse(source)
            self._template = environment.from_string(source)
        except self._errors as e:
            raise Unreadable(f"the chat template cannot be compiled: {_short(e)}.") from None
        self._specials = dict(specials)
        self.content: Literal["string", "openai"] = "openai" if _iterates(tree) else "string"
        self.developer = "'developer'" in source or '"developer"' in source

    def render(self, messages: list[dict[str, Any]], tools: list[Any] | None, options: Mapping[str, Any], *, answer: bool) -> str:
        """The prompt's text. `answer`: it ends where the assistant begins. Raises `Unreadable` when the template refuses or fails."""
        if not _RESERVED.isdisjoint(options):
            raise Unreadable("an option for the chat template has a reserved name.")
        given = {"documents": None, **self._specials, **options, "messages": messages, "tools": tools, "add_generation_prompt": answer}
        limit = MAX_RENDERED + 4 * sum(len(str(m.get("content"))) for m in messages)
        out, size = [], 0
        try:
            for piece in self._template.generate(**given):
                out.append(piece)
                size += len(piece)
                if size > limit:
                    raise Unreadable(f"the chat template writes more than {limit} characters.")
        except Unreadable:
            raise
        except self._errors as e:
            raise Unreadable(f"the chat template does not take this: {_short(e)}.") from None
        return "".join(out)


def _errors() -> tuple[type[Exception], ...]:
    """What templates raise: their own refusals, and Python's errors in what they do with values."""
    found: type[Exception] = import_module("jinja2").TemplateError
    return (found, TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError, SyntaxError)


def _environment(now: Callable[[], datetime]) -> Any:
    sandbox = import_module("jinja2.sandbox")
    refuse = import_module("jinja2").TemplateError

    def raise_exception(message: str) -> None:
        raise refuse(message)

    made = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: now().strftime(form)
    return made


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """As transformers has it: jinja's own escapes what HTML would."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _short(error: BaseException) -> str:
    """The first line of a template's complaint."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def _iterates(tree: Any) -> bool:
    """Whether a template walks over the parts of a content: then vLLM gives it parts, else texts.

    A loop over something's `content`, over a variable of that name, or over a macro's argument that is called with something's `content`.
    """
    nodes = import_module("jinja2.nodes")
    names = {"content"} | {name for macro in tree.find_all(nodes.Macro) for name in _given_content(tree, macro, nodes)}
    for loop in tree.find_all(nodes.For):
        over = loop.iter
        while isinstance(over, nodes.Filter):
            over = over.node
        if _is_content(over, nodes) or (isinstance(over, nodes.Name) and over.name in names):
            return True
    return False


def _given_content(tree: Any, macro: Any, nodes: Any) -> Iterator[str]:
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name == macro.name:
            for arg, given in zip(macro.args, call.args, strict=False):
                if _is_content(given, nodes):
                    yield arg.name


def _is_content(node: Any, nodes: Any) -> bool:
    if isinstance(node, nodes.Getattr):
        return bool(node.attr == "content")
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"
