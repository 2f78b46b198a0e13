"""What the Messages API refuses, rule by rule, each with its source; and which Claude models there are.

Sources: `sdk` names a type of the official Python SDK, `doc` a page of platform.claude.com (or its `migration` guide to API version
2026-10-21), `owner/repo#n` an issue that quotes the answer, `trap n` a line of our list of wire-format traps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.fakes.providers.common import Rule

AUTH, PERMISSION, MISSING = "authentication_error", "permission_error", "not_found_error"


@dataclass(frozen=True)
class Claude:
    """What one model takes. `sampling`: any; one (temperature or top_p, not both); fixed (only the default). `thinking`: the types that
    turn it on. `omitted`: thinking comes back without its text unless `display` asks for it."""

    max_output: int
    sampling: Literal["any", "one", "fixed"] = "one"
    thinking: tuple[str, ...] = ("enabled",)
    prefill: bool = True
    schema: bool = True
    effort: bool = False
    forced_tools: bool = True
    late_system: bool = False
    omitted: bool = False
    context: int = 200_000


# doc: models overview, adaptive thinking, effort, structured outputs; traps 1, 6, 11, 33, 38, 39. Output limits in tokens.
MODELS: dict[str, Claude] = {
    "claude-3-5-haiku-20241022": Claude(8_192, "any", (), schema=False),
    "claude-sonnet-4-5-20250929": Claude(64_000),
    "claude-opus-4-6": Claude(128_000, "one", ("enabled", "adaptive"), prefill=False, effort=True),
    "claude-opus-4-7": Claude(128_000, "fixed", ("adaptive",), prefill=False, effort=True, omitted=True),
    "claude-fable-5": Claude(
        128_000, "fixed", ("adaptive",), prefill=False, effort=True, forced_tools=False, late_system=True, omitted=True
    ),
}

RULES: dict[str, Rule] = {
    # Of the HTTP request.
    "auth_missing": Rule("x-api-key header is required", "doc: errors, 401 authentication_error", 401, AUTH),
    "auth_invalid": Rule("invalid x-api-key", "doc: errors, 401 authentication_error", 401, AUTH),
    "path": Rule("Not found", "doc: errors, 404 not_found_error", 404, MISSING),
    "model": Rule("model: {model}", "doc: errors, 404 not_found_error", 404, MISSING),
    "version_missing": Rule("anthropic-version: header is required", "doc: versioning"),
    "version_unknown": Rule("anthropic-version: \"{version}\" is not a valid version", "doc: versioning"),
    "content_type": Rule("content-type: Input should be application/json", "doc: API overview, content-type: application/json"),
    "body": Rule("The request body is not valid JSON: expected an object", "doc: API overview"),
    "too_large": Rule("Request exceeds the maximum size", "doc: errors, 413 request_too_large; trap 29", 413, "request_too_large"),
    "context": Rule("prompt is too long: {given} tokens > {limit} maximum", "claude-code#12186"),
    # Of types.
    "typed": Rule("{where}: {what}", "sdk: types.MessageCreateParams (MessageCountTokensParams); pydantic words seen in claude-code#8184"),
    "role": Rule(
        'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter, not "system" as an input message '
        "role.",
        "doc: system prompts; trap 1: only newer models take a system message",
    ),
    "sampling_gone": Rule("{param}: Extra inputs are not permitted", "migration; MinusPod release 2.101.10; trap 33"),
    "document_assistant": Rule("{where}: `document` blocks are not permitted in `assistant` messages", "migration"),
    "citations_user": Rule("{where}.citations: citations are not permitted in `user` messages", "migration"),
    # Of messages.
    "no_messages": Rule("messages: at least one message is required", "doc: Messages, messages"),
    "first_user": Rule('messages: first message must use the "user" role', "doc: Messages, alternating turns"),
    "no_content": Rule(
        "messages.{at}: all messages must have non-empty content except for the optional final assistant message",
        "anthropic-sdk-python#461; trap 5",
    ),
    "empty_text": Rule("{part}: text content blocks must be non-empty", "trap 5 (anthropic-sdk-python#461, hermes#11929)"),
    "blank_text": Rule("{part}: text content blocks must contain non-whitespace text", "home-assistant/core#175637, claude-code#23369"),
    "final_space": Rule("messages: final assistant content cannot end with trailing whitespace", "doc: prefill"),
    "prefill": Rule(
        "This model does not support assistant message prefill. The conversation must end with a user message.",
        "trap 6; langchain-ai/deepagents#1585, sdk: MessageCreateParams.messages",
    ),
    "role_block": Rule("{where}: `{block}` blocks can only be in `{role}` messages", "doc: tool use, extended thinking"),
    "prefill_thinking": Rule("Prefilling assistant messages is not supported when thinking is enabled.", "doc: extended thinking"),
    # Of tools.
    "results_missing": Rule(
        "messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately after: {ids}. Each `tool_use` block must have "
        "a corresponding `tool_result` block in the next message.",
        "claude-code#8210; traps 16, 18",
    ),
    "results_unexpected": Rule(
        "messages.{at}.content.{block}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` block must have "
        "a corresponding `tool_use` block in the previous message.",
        "claude-code#13460; trap 16",
    ),
    "results_first": Rule(
        "messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately after: {ids}. Each `tool_use` block must have "
        "a corresponding `tool_result` block in the next message.",
        "doc: tool use, tool_result blocks come first in the content; trap 16 (kosong#45, cubeloop#106)",
    ),
    "results_twice": Rule(
        "messages.{at}.content.{block}: each tool_use must have a single result. Found multiple `tool_result` blocks with id: {id}",
        "doc: tool use",
    ),
    "ids_twice": Rule("messages.{at}.content.{block}: `tool_use` ids must be unique", "trycua/cua#524; trap 19"),
    "id_pattern": Rule("{where}: String should match pattern '^[a-zA-Z0-9_-]+$'", "HKUDS/nanobot#4356; trap 19"),
    "name_pattern": Rule("{where}: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'", "doc: define tools, name"),
    "names_twice": Rule("tools: Tool names must be unique.", "claude-code#10687"),
    "schema_object": Rule("{where}.input_schema.type: Input should be 'object'", "sdk: types.ToolParam.InputSchemaTyped; trap 9"),
    "choice_no_tools": Rule("tool_choice may only be specified while providing tools", "doc: tool use"),
    "choice_unknown": Rule("Tool '{name}' not found in provided tools", "doc: tool use"),
    "choice_thinking": Rule("Thinking may not be enabled when tool_choice forces tool use.", "mastra-ai/mastra#7507; trap 11"),
    "choice_forced": Rule("tool_choice: forced tool use is not supported for this model", "trap 11 (pydantic-ai: profiles/anthropic.py)"),
    # Of parameters.
    "max_tokens": Rule(
        "max_tokens: {given} > {limit}, which is the maximum allowed number of output tokens for {model}", "doc: models overview; trap 32"
    ),
    "max_tokens_low": Rule("max_tokens: Input should be greater than or equal to 0", "sdk: MessageCreateParams.max_tokens"),
    "temperature": Rule("temperature: range: 0..1", "doc: Messages, temperature; trap 33"),
    "top_p": Rule("top_p: range: 0..1", "doc: Messages, top_p"),
    "top_k": Rule("top_k: Input should be greater than or equal to 0", "doc: Messages, top_k"),
    "sampling_both": Rule(
        "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
        "cloud-apim/otoroshi-llm-extension#140; trap 33",
    ),
    "sampling_fixed": Rule("`{param}` is deprecated for this model.", "szczyglis-dev/py-gpt#184, expectedparrot/edsl#2458; trap 33"),
    "sampling_thinking": Rule(
        "`{param}` {what} when thinking is enabled. Please consult our documentation at https://docs.claude.com/en/docs/build-with-claude/"
        "extended-thinking",
        "MartialBE/one-hub#529, pydantic-ai#2487; trap 34 (the same rule of OpenAI)",
    ),
    "stop_empty": Rule("stop_sequences: each stop sequence must be non-empty", "mcp-web-ui#5; trap 35"),
    "stop_blank": Rule("stop_sequences: each stop sequence must contain non-whitespace", "litellm#3286; trap 35"),
    "effort": Rule("This model does not support the effort parameter.", "doc: effort; trap 39"),
    "format_model": Rule("'{model}' does not support output format.", "doc: structured outputs; trap 38"),
    "format_open": Rule(
        "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false",
        "veryfront-code#3918, ax-llm/ax#458; trap 38",
    ),
    "format_keyword": Rule(
        "output_config.format.schema: For '{kind}' type, properties {keywords} are not supported", "doc: structured outputs; trap 38"
    ),
    # Of thinking.
    "thinking_none": Rule("'{model}' does not support thinking.", "doc: extended thinking, models"),
    "thinking_adaptive": Rule("adaptive thinking is not supported on this model", "doc: adaptive thinking; trap 39"),
    "thinking_enabled": Rule(
        '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and "output_config.effort" to control '
        "thinking behavior.",
        "opencode#22863, hermes-agent#11137; trap 39",
    ),
    "budget_low": Rule("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024", "sdk: ThinkingConfigEnabledParam"),
    "budget_high": Rule(
        "`max_tokens` must be greater than `thinking.budget_tokens`. Please consult our documentation at https://docs.claude.com/en/docs/"
        "build-with-claude/extended-thinking#max-tokens-and-context-window-size",
        "sdk: ThinkingConfigEnabledParam; trap 39",
    ),
    "thinking_expected": Rule(
        "messages.{at}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{found}`. When `thinking` is enabled, a "
        "final `assistant` message must start with a thinking block (preceeding the lastmost set of `tool_use` and `tool_result` blocks).",
        "claude-code#12894, pydantic-ai#2040; trap 40",
    ),
    "thinking_first": Rule(
        "messages.{at}.content.0: If an assistant message contains any thinking blocks, the first block must be `thinking` or "
        "`redacted_thinking`. Found `{found}`.",
        "claude-code#20691; trap 40",
    ),
    "signature": Rule("messages.{at}.content.{block}: Invalid `signature` in `thinking` block", "claude-code#10627; trap 40"),
    "redacted": Rule(
        "messages.{at}.content.{block}: Invalid `data` in `redacted_thinking` block", "sdk: RedactedThinkingBlockParam; trap 40"
    ),
    "thinking_changed": Rule(
        "messages.{at}.content.0: `thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified. These "
        "blocks must remain as they were in the original response.",
        "sdk: ThinkingBlockParam.signature; anthropic-sdk-python#1598; trap 40",
    ),
    # Of caching.
    "cache_many": Rule("A maximum of 4 blocks with cache_control may be provided. Found {found}.", "tghamm/Anthropic.SDK#50; trap 44"),
    "cache_order": Rule(
        "{where}: a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block.", "doc: prompt caching; trap 44"
    ),
    # Of media.
    "base64": Rule("{where}.source.base64.data: Input should be valid base64", "sdk: Base64ImageSourceParam; trap 43"),
    "image_type": Rule(
        "{where}.source.base64: The image was specified using the {claimed} media type, but the image appears to be a {real} image",
        "home-assistant/core#167208; trap 43",
    ),
    "image_broken": Rule("{where}.source.base64: Could not process image", "doc: vision, image formats; trap 43"),
    "pdf": Rule("{where}.source.base64.data: The PDF specified was not valid.", "doc: PDF support; trap 43"),
    "url": Rule("{where}.source.url: Only HTTPS URLs are supported.", "doc: vision, URL images"),
}  # fmt: skip
