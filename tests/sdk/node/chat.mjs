// The stock `openai` npm package against the server in POINTSMAN_URL: prints one JSON object of what it saw.
import OpenAI from "openai";

const { POINTSMAN_URL: baseURL, POINTSMAN_KEY: apiKey, POINTSMAN_MODEL: model } = process.env;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60_000 });
const messages = [{ role: "user", content: "Repeat: banana" }];
const seen = {};

const models = [];
for await (const entry of client.models.list()) models.push(entry.id);
seen.models = models;

const whole = await client.chat.completions.create({ model, messages, temperature: 0 });
seen.whole = whole.choices[0].message.content;

const stream = await client.chat.completions.create({
  model, messages, temperature: 0, stream: true, stream_options: { include_usage: true },
});
seen.streamed = "";
for await (const chunk of stream) {
  seen.streamed += chunk.choices[0]?.delta?.content ?? "";
  if (chunk.usage) seen.tokens = chunk.usage.completion_tokens;
}

const left = await client.chat.completions.create({ model, messages, stream: true });
for await (const chunk of left) {
  seen.left = chunk.object;
  break; // leaving the loop aborts the request
}

const tool = {
  type: "function",
  function: { name: "get_weather", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } },
};
const called = await client.chat.completions
  .stream({ model, messages: [{ role: "user", content: "What is the weather in Paris?" }], tools: [tool], tool_choice: "required", max_tokens: 100 })
  .finalChatCompletion();
seen.call = called.choices[0].message.tool_calls[0].function;

const embedded = await client.embeddings.create({ model, input: ["red", "blue"] });
seen.embeddings = embedded.data.map((row) => row.embedding.length);

const completed = await client.completions.create({ model, prompt: "one two", max_tokens: 2, temperature: 0 });
seen.completed = completed.choices[0].finish_reason;

try {
  await client.chat.completions.create({ model: "no-such-model", messages });
} catch (error) {
  seen.error = [error.constructor.name, error.status, error.code, typeof error.requestID];
}
process.stdout.write(JSON.stringify(seen) + "\n");
