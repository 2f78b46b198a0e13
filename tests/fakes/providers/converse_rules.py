"""What Bedrock's Converse refuses before a model sees it, rule by rule, each with its source; and which models there are.

Sources: `model` is the service model that botocore ships, `doc` a page of docs.aws.amazon.com, `owner/repo#n` an issue that quotes the
answer. What the model itself refuses (`The model returned the following errors: …`) are the rules of `claude_rules`.
"""

from __future__ import annotations

from tests.fakes.providers.common import Rule

INVALID = "ValidationException"
SIGNATURE = "InvalidSignatureException"

# Ids of inference profiles and, for old models, of the models themselves; what they are in `claude_rules.MODELS`, None for no Claude.
MODELS: dict[str, str | None] = {
    "anthropic.claude-3-5-haiku-20241022-v1:0": "claude-3-5-haiku-20241022",
    "us.anthropic.claude-sonnet-4-5-20250929-v1:0": "claude-sonnet-4-5-20250929",
    "us.anthropic.claude-opus-4-6-v1": "claude-opus-4-6",
    "us.anthropic.claude-opus-4-7": "claude-opus-4-7",
    "us.amazon.nova-pro-v1:0": None,
}
NOVA_OUTPUT = 10_000  # doc: Nova, tokens

RULES: dict[str, Rule] = {
    "missing": Rule("Missing Authentication Token", "doc: common errors", 403, "MissingAuthenticationTokenException"),
    "incomplete": Rule(
        "Authorization header requires 'Credential' parameter, 'Signature' parameter, 'SignedHeaders' parameter and 'X-Amz-Date' header.",
        "doc: common errors", 403, "IncompleteSignatureException",
    ),
    "unknown": Rule("The security token included in the request is invalid.", "doc: common errors", 403, "UnrecognizedClientException"),
    "scope": Rule("Credential should be scoped to a valid region and to correct service: 'bedrock'.", "doc: SigV4 errors", 403, SIGNATURE),
    "expired": Rule("Signature expired: it is more than 15 minutes off.", "doc: SigV4 errors", 403, SIGNATURE),
    "signature": Rule(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing "
        "method. Consult the service documentation for details.",
        "doc: SigV4 errors", 403, SIGNATURE,
    ),
    "bearer": Rule(
        "Authentication failed: Please make sure your API Key is valid.", "doc: Bedrock API keys; model: smithy.api#httpBearerAuth", 403,
        "AccessDeniedException",
    ),
    "path": Rule("The requested operation is not recognized by the service.", "doc: common errors", 404, "UnknownOperationException"),
    "body": Rule("Could not parse the request body", "doc: restJson1 protocol", 400, "SerializationException"),
    "model": Rule("The provided model identifier is invalid.", "earendil-works/pi#4993", 400, INVALID),
    "profile": Rule(
        "Invocation of model ID {model} with on-demand throughput isn’t supported. Retry your request with the ID or ARN of an inference "
        "profile that contains this model.",
        "strands-agents/harness-sdk#38", 400, INVALID,
    ),
    "typed": Rule(
        "1 validation error detected: Value at '{where}' failed to satisfy constraint: {what}", "model; hermes-agent#55429", 400, INVALID
    ),
    "unknown_key": Rule("Unexpected field '{where}'", "model: ConverseRequest has no such member", 400, INVALID),
    "first_user": Rule(
        "A conversation must start with a user message. Try again with a conversation that starts with a user message.",
        "langgenius/dify#12340", 400, INVALID,
    ),
    "alternate": Rule(
        "A conversation must alternate between user and assistant roles. Make sure the conversation alternates between user and assistant "
        "roles and try again.",
        "langchain-aws#130, Portkey-AI/gateway#748; trap 4", 400, INVALID,
    ),
    "no_content": Rule(
        "The content field in the Message object at messages.{at} is empty. Add a ContentBlock object to the content field and try again.",
        "archestra-ai/archestra#4220", 400, INVALID,
    ),
    "blank_text": Rule(
        "The text field in the ContentBlock object at {where} is blank. Add text to the text field, and try again.",
        "OpenHands#5339; trap 5", 400, INVALID,
    ),
    "tool_config": Rule(
        "The toolConfig field must be defined when using toolUse and toolResult content blocks.", "dify#17545, onyx#7842", 400, INVALID
    ),
    "results_missing": Rule(
        "Expected toolResult blocks at messages.{at}.content for the following Ids: {ids}", "genkit-ai/aws-bedrock-js-plugin#664; trap 16",
        400, INVALID,
    ),
    "results_exceed": Rule(
        "The number of toolResult blocks at messages.{at}.content exceeds the number of toolUse blocks of previous turn.",
        "strands-agents/harness-sdk#1435", 400, INVALID,
    ),
    "error_empty": Rule(
        "The content field at {where}.toolResult cannot be empty when status value is error.",
        "aws-samples/sample-multi-agent-orchestration-chat-on-agentcore#15", 400, INVALID,
    ),
    "document_name": Rule(
        "The document file name can only contain alphanumeric characters, whitespace characters, hyphens, parentheses, and square "
        "brackets. The name can't contain more than one consecutive whitespace character. Check that the file name conforms to these "
        "restrictions and retry your request.",
        "opencode#19964, vercel/ai#20365; model: DocumentBlock.name", 400, INVALID,
    ),
    "document_twice": Rule(
        "Messages can't contain duplicate document names. Rename the document and retry your request.", "maximhq/bifrost#7003", 400, INVALID
    ),
    "document_text": Rule("A text block must be included when using documents.", "archestra-ai/archestra#4220", 400, INVALID),
    "max_tokens": Rule(
        "The maximum tokens you requested exceeds the model limit of {limit}. Try again with a maximum tokens value that is lower than "
        "{limit}.",
        "aws-samples/bedrock-access-gateway#41; trap 32", 400, INVALID,
    ),
    "context": Rule("Input is too long for requested model.", "aws-samples/bedrock-chat#95", 400, INVALID),
    "extraneous": Rule(
        "The model returned the following errors: Malformed input request: #: extraneous key [{key}] is not permitted, please reformat "
        "your input and try again.",
        "zed-industries/zed#31815, AnthropicSwiftSDK#19", 400, INVALID,
    ),
    "refused": Rule("The model returned the following errors: {message}", "opencode#3077, oh-my-pi#341; claude_rules", 400, INVALID),
}  # fmt: skip
