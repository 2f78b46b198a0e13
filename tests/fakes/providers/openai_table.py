"""OpenAI's refusals: the sentence, `code` and type of each error object, and how we know of it.

`T34` is number 34 of the shared wire traps; `SDK` the request types and docstrings of the official openai package; `#` an issue that
quotes the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.fakes.providers.common import Rejected, Rule

Doc = dict[str, Any]


@dataclass(frozen=True)
class Because(Rule):
    """A rule whose error object has a code."""

    code: str | None = None


class Refusal(Rejected):
    """A request that broke a rule, at a parameter."""

    def __init__(self, name: str, rule: Because, message: str, param: str | None) -> None:
        super().__init__(name, rule, message)
        self.param, self.code = param, rule.code

    @property
    def body(self) -> Doc:
        return {"error": {"message": self.message, "type": self.rule.kind, "param": self.param, "code": self.code}}


RULES: dict[str, Because] = {
    # Who and where.
    "no key": Because(
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: "
        "Bearer YOUR_KEY).",
        "API reference, Authentication",
        401,
    ),
    "key": Because(
        "Incorrect API key provided: {shown}. You can find your API key at https://platform.openai.com/account/api-keys.",
        "guide Error codes, 401",
        401,
        code="invalid_api_key",
    ),
    "path": Because("Invalid URL ({method} {path})", "API reference", 404),
    "model": Because(
        "The model `{model}` does not exist or you do not have access to it.", "guide Error codes, 404", 404, code="model_not_found"
    ),
    "body": Because(
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library correctly. The "
        "OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
        "API reference",
    ),
    # Shapes, as the SDK's types have them.
    "argument": Because("Unrecognized request argument supplied: {key}", "SDK CompletionCreateParams"),
    "unknown": Because("Unknown parameter: '{param}'.", "SDK types", code="unknown_parameter"),
    "missing": Because("Missing required parameter: '{param}'.", "SDK types", code="missing_required_parameter"),
    "type": Because("Invalid type for '{param}': expected {wanted}, but got {got} instead.", "SDK types", code="invalid_type"),
    "value": Because("Invalid value: '{value}'. Supported values are: {values}.", "SDK Literal types", code="invalid_value"),
    # Ranges (docstrings of the SDK's params).
    "above": Because(
        "Invalid '{param}': {kind} above maximum value. Expected a value <= {limit}, but got {value} instead.",
        "SDK docstrings",
        code="decimal_above_max_value",
    ),
    "below": Because(
        "Invalid '{param}': {kind} below minimum value. Expected a value >= {limit}, but got {value} instead.",
        "SDK docstrings",
        code="decimal_below_min_value",
    ),
    "long array": Because(
        "Invalid '{param}': array too long. Expected an array with maximum length {limit}, but got an array with length {value} instead.",
        "T35; SDK docstring of stop",
        code="array_above_max_length",
    ),
    "empty array": Because(
        "Invalid '{param}': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        "T35; openai-openapi minItems",
        code="empty_array",
    ),
    "long string": Because(
        "Invalid '{param}': string too long. Expected a string with maximum length {limit}, but got a string with length {value} instead.",
        "T19; openai-openapi maxLength",
        code="string_above_max_length",
    ),
    "pattern": Because(
        "Invalid '{param}': string does not match pattern. Expected a string that matches the pattern '{pattern}'.",
        "SDK FunctionDefinition.name",
        code="invalid_value",
    ),
    # Messages.
    "unanswered": Because(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following "
        "tool_call_ids did not have response messages: {ids}",
        "T16; genkit-plugins#225",
    ),
    "stray tool": Because(
        "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.",
        "T16; miurla/morphic#136",
    ),
    "no content": Because("Invalid value for 'content': expected a string, got null.", "T5; API reference, assistant message"),
    "arguments": Because(
        "Invalid '{param}': expected a string with the JSON of an object.", "stricter than the service: T15 says what we send"
    ),
    "image": Because(
        "You uploaded an unsupported image. Please make sure your image has of one the following formats: ['png', 'jpeg', 'gif', 'webp'].",
        "T43; guide Images and vision",
        code="invalid_image_format",
    ),
    "image url": Because("Failed to download image from {url}.", "T43; guide Images and vision", code="invalid_image_url"),
    "base64": Because("Invalid '{param}': expected base64-encoded data.", "T43; SDK ImageURL.url", code="invalid_base64"),
    "file": Because(
        "Invalid file data: '{param}'. Expected a base64-encoded data URL with an application/pdf MIME type.",
        "T43; guide PDF files",
        code="invalid_value",
    ),
    # Models.
    "max_tokens": Because(
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "T32, T34",
        code="unsupported_parameter",
    ),
    "two limits": Because(
        "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.", "T32; SDK docstring of max_tokens"
    ),
    "unsupported": Because("Unsupported parameter: '{param}' is not supported with this model.", "T34", code="unsupported_parameter"),
    "default only": Because(
        "Unsupported value: '{param}' does not support {value} with this model. Only the default ({default}) value is supported.",
        "T34",
        code="unsupported_value",
    ),
    "effort": Because(
        "Unsupported value: '{param}' does not support '{value}' with this model. Supported values are: {values}.",
        "T39; SDK ReasoningEffort",
        code="unsupported_value",
    ),
    "too many tokens": Because(
        "max_tokens is too large: {value}. This model supports at most {limit} completion tokens, whereas you provided {value}.",
        "T32",
        code="invalid_value",
    ),
    # What goes only with something else.
    "only with": Because(
        "The '{param}' parameter is only allowed when '{other}' is enabled.", "SDK docstrings of stream_options and top_logprobs"
    ),
    "without tools": Because(
        "Invalid value for '{param}': '{param}' is only allowed when 'tools' are specified.", "SDK docstring of tool_choice"
    ),
    "tool choice": Because("Tool choice '{name}' not found in 'tools' parameter.", "SDK ChatCompletionNamedToolChoiceParam"),
    "two tools": Because("Invalid '{param}': there is more than one tool named '{name}'.", "stricter than the service: nobody means it"),
    "say json": Because(
        "'{where}' must contain the word 'json' in some form, to use '{param}' of type 'json_object'.",
        "guide Structured outputs, JSON mode",
    ),
    # Responses.
    "moved": Because(
        "Unsupported parameter: '{param}'. In the Responses API, this parameter has moved to '{to}'. Try again with the new parameter. "
        "See the API documentation for more information: https://platform.openai.com/docs/api-reference/responses/create.",
        "guide Migrate to the Responses API",
        code="unsupported_parameter",
    ),
    "not spoken": Because("This server of the tests does not speak '{value}' at '{param}'.", "the fake's own limit", code="invalid_value"),
    "item id": Because(
        "Invalid '{param}': '{value}'. Expected an ID that begins with '{prefix}'.",
        "SDK docstrings of the items' ids",
        code="invalid_value",
    ),
    "no output": Because("No tool output found for function call {id}.", "T16; openclaude#187"),
    "no call": Because("No tool call found for function call output with call_id {id}.", "continue#10092"),
    "no following": Because(
        "Item '{id}' of type 'reasoning' was provided without its required following item.",
        "T40; pydantic-ai#2861, openai-agents-python#1660",
    ),
    "no reasoning": Because(
        "Item '{id}' of type 'function_call' was provided without its required 'reasoning' item: '{wanted}'.", "T40; TanStack/ai#1212"
    ),
    "encrypted": Because(
        "The encrypted content {shown} could not be verified. Reason: Encrypted content could not be decrypted or parsed.",
        "T40; SDK ResponseReasoningItemParam.encrypted_content",
        code="invalid_encrypted_content",
    ),
    "item lost": Because(
        "Item with id '{id}' not found. Items are not persisted when `store` is set to false. Try again with `store` set to true, or "
        "remove this item from your input.",
        "guide Conversation state",
        404,
    ),
    "previous": Because(
        "Previous response with id '{id}' not found.", "SDK docstring of previous_response_id", code="previous_response_not_found"
    ),
    "response": Because("Response with id '{id}' not found.", "API reference, Get a model response", 404),
    "no encryption": Because("Encrypted content is not supported with this model.", "SDK ResponseIncludable, reasoning.encrypted_content"),
    # Schemas.
    "function schema": Because(
        "Invalid schema for function '{name}': {why}",
        "trae-agent#173, mysql-mcp#5, github-mcp-server#1548",
        code="invalid_function_parameters",
    ),
    "format schema": Because("Invalid schema for response_format '{name}': {why}", "outlines#844, outlines#1666"),
    "text schema": Because("Invalid schema for response_format '{name}': {why}", "outlines#844", code="invalid_json_schema"),
}


def refuse(name: str, /, param: str | None = None, *, code: str | None = None, **values: object) -> Refusal:
    """The refusal by a rule. To be raised by the caller."""
    rule = RULES[name]
    made = Refusal(name, rule, rule.message.format(param=param, **values), param)
    made.code = code or made.code
    return made
