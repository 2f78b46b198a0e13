# mypy: no-warn-return-any
"""The toy model's chat template: one control token per role, Hermes tool calls, and a tool list of one short line per tool.

The same text goes into the GGUF (``tokenizer.chat_template``) and renders the training data, so the model is trained on
exactly what llama.cpp will show it. The tool list is ``name(parameter, ...)``: a JSON schema would be a long prompt for a toy.
"""

import json
from typing import Any

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}{{- content -}}
{%- elif content is iterable and content is not mapping -%}
{%- for part in content -%}{%- if part.text is defined -%}{{- part.text -}}{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
{{- '<|system|>' -}}
{%- if messages[0].role == 'system' -%}{{- text(messages[0].content) + '\\n' -}}{%- endif -%}
{{- 'Tools:' -}}
{%- for tool in tools -%}
{%- set f = tool.function if tool.function is defined else tool -%}
{{- '\\n' + f.name + '(' -}}
{%- if f.parameters is defined and f.parameters and f.parameters.properties is defined -%}
{%- for key in f.parameters.properties -%}{{- key -}}{%- if not loop.last -%}{{- ', ' -}}{%- endif -%}{%- endfor -%}
{%- endif -%}
{{- ')' -}}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if not (tools and loop.first and message.role == 'system') -%}
{{- '<|' + ('system' if message.role == 'developer' else message.role) + '|>' -}}
{%- if message.content -%}{{- text(message.content) -}}{%- endif -%}
{%- if message.tool_calls is defined and message.tool_calls -%}
{%- for call in message.tool_calls -%}
{%- set f = call.function if call.function is defined else call -%}
{%- if message.content or not loop.first -%}{{- '\\n' -}}{%- endif -%}
{{- '<tool_call>\\n{"name": "' + f.name + '", "arguments": ' -}}
{%- if f.arguments is string -%}{{- f.arguments -}}{%- else -%}{{- f.arguments | tojson -}}{%- endif -%}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

Message = dict[str, Any]
Tool = dict[str, Any]


def tool_call_text(name: str, arguments: dict[str, Any]) -> str:
    """One tool call as the model writes it."""
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


def renderer() -> Any:
    """A function ``(messages, tools, add_generation_prompt) -> str`` over :data:`CHAT_TEMPLATE` (needs jinja2)."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # type: ignore[import-not-found, unused-ignore]

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(CHAT_TEMPLATE)

    def render(messages: list[Message], tools: list[Tool] | None = None, add_generation_prompt: bool = False) -> str:
        return template.render(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt)

    return render
