// Asks a server of OpenAI's protocol with the npm package `openai`: `node npm_client.mjs BASE_URL MODEL PACKAGE`.
// Prints what it saw as one line of JSON.
const [baseURL, model, location] = process.argv.slice(2);
const { default: OpenAI } = await import(location);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of Japan?" }];
const tools = [{
  type: "function",
  function: {
    name: "get_weather",
    parameters: {
      type: "object", properties: { city: { enum: ["Oslo", "Rome"] } }, required: ["city"], additionalProperties: false,
    },
  },
}];
const seen = {};

const whole = await client.chat.completions.create({ model, messages, temperature: 0 });
seen.whole = whole.choices[0].message.content;
seen.tokens = whole.usage.total_tokens;

seen.streamed = "";
const stream = await client.chat.completions.create({
  model, messages, temperature: 0, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  seen.streamed += chunk.choices[0]?.delta?.content ?? "";
  if (chunk.usage) seen.streamedTokens = chunk.usage.total_tokens;
}

const asked = [{ role: "user", content: "What is the weather in Oslo?" }];
const runner = client.chat.completions.stream({ model, messages: asked, temperature: 0, tools });
const call = (await runner.finalChatCompletion()).choices[0].message.tool_calls[0];
seen.call = [call.function.name, JSON.parse(call.function.arguments)];

const schema = { type: "object", properties: { legs: { enum: [2, 4] } }, required: ["legs"], additionalProperties: false };
const guided = await client.chat.completions.create({
  model, messages, max_tokens: 100, response_format: { type: "json_schema", json_schema: { name: "pet", strict: true, schema } },
});
seen.legs = JSON.parse(guided.choices[0].message.content).legs;

seen.response = (await client.responses.create({ model, input: "What is the capital of Japan?", temperature: 0 })).output_text;
seen.events = [];
for await (const event of await client.responses.create({ model, input: "Hello", temperature: 0, stream: true })) {
  if (!seen.events.includes(event.type)) seen.events.push(event.type);
}

seen.completion = (await client.completions.create({ model, prompt: "Hello", max_tokens: 3 })).usage.completion_tokens;
seen.models = [];
for await (const one of client.models.list()) seen.models.push(one.id);

const long = await client.chat.completions.create({ model, messages, stream: true, max_tokens: 1500, ignore_eos: true });
for await (const chunk of long) { if (chunk.choices.length) break; } // ends the request

try {
  await client.chat.completions.create({ model: "none", messages });
} catch (error) {
  seen.error = [error.constructor.name, error.status, error.code, error.param];
}
console.log(JSON.stringify(seen));
