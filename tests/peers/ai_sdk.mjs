// The AI SDK: objects, functions and the messages of useChat, over Responses (its default) and chat completions.
import http from "node:http";
import { createOpenAI } from "@ai-sdk/openai";
import {
  DefaultChatTransport, Output, convertToModelMessages, embedMany, generateObject, generateText, isStepCount, readUIMessageStream,
  streamObject, streamText, tool,
} from "ai";
import { z } from "zod";
import { INSTRUCTIONS, QUESTION, Weather, report } from "./cases.mjs";

const provider = (address) => createOpenAI({ baseURL: `${address}/v1`, apiKey: "none" });
const responses = (address) => provider(address)("gpt-5-mini");
const chat = (address) => provider(address).chat("gpt-4o-mini");
const schema = z.object({ name: z.string(), country: z.string(), inhabitants: z.number().int() });
const CAPITAL = "The capital of France.";

const tools = (weather) => ({
  get_weather: tool({
    description: weather.description,
    inputSchema: z.object({ city: z.string() }),
    execute: async (args) => weather.run(args),
  }),
});

const options = (model, weather) => ({
  model,
  maxRetries: 0,
  instructions: INSTRUCTIONS,
  tools: tools(weather),
  stopWhen: isStepCount(4),
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "auto" }),
});

async function object(model) {
  const { object } = await generateObject({ model, schema, prompt: CAPITAL, maxRetries: 0 });
  return object;
}

async function objectStreamed(model) {
  const stream = streamObject({ model, schema, prompt: CAPITAL, maxRetries: 0 });
  let parts = 0;
  for await (const _ of stream.partialObjectStream) parts += 1;
  return { parts, object: await stream.object };
}

async function outputOfText(model) {
  const { output } = await generateText({ model, prompt: CAPITAL, output: Output.object({ schema }), maxRetries: 0 });
  return output;
}

async function text(model) {
  const weather = new Weather();
  const told = await generateText({ ...options(model, weather), prompt: QUESTION });
  return { calls: weather.calls, text: told.text, steps: told.steps.length };
}

async function outputWithFunction(model) {
  const weather = new Weather();
  const told = await generateText({
    model,
    maxRetries: 0,
    instructions: INSTRUCTIONS,
    tools: tools(weather),
    stopWhen: isStepCount(4),
    output: Output.object({ schema: z.object({ city: z.string(), weather: z.string() }) }),
    prompt: QUESTION,
  });
  return { calls: weather.calls, output: told.output };
}

async function textStreamed(model) {
  const weather = new Weather();
  const errors = [];
  const stream = streamText({ ...options(model, weather), prompt: QUESTION, onError: ({ error }) => errors.push(`${error}`) });
  const kinds = [];
  for await (const part of stream.fullStream ?? stream.stream) kinds.push(part.type);
  return { calls: weather.calls, text: await stream.text, errors, kinds };
}

// A route as in the SDK's documentation, and the transport that useChat uses.
async function useChat(model) {
  const weather = new Weather();
  const errors = [];
  const route = http.createServer(async (request, answer) => {
    let body = "";
    for await (const piece of request) body += piece;
    const messages = await convertToModelMessages(JSON.parse(body).messages);
    const stream = streamText({ ...options(model, weather), messages, onError: ({ error }) => errors.push(`${error}`) });
    stream.pipeUIMessageStreamToResponse(answer);
  });
  await new Promise((resolve) => route.listen(0, "127.0.0.1", resolve));
  const transport = new DefaultChatTransport({ api: `http://127.0.0.1:${route.address().port}/api/chat` });
  const history = [];
  const turns = [];
  for (const question of [QUESTION, "And in Rome?"]) {
    history.push({ id: `user-${history.length}`, role: "user", parts: [{ type: "text", text: question }] });
    const stream = await transport.sendMessages({ trigger: "submit-message", chatId: "chat", messages: history });
    let message;
    for await (message of readUIMessageStream({ stream })); // the last one is whole
    history.push(message);
    turns.push(message.parts.map((part) => ({ type: part.type, state: part.state, text: part.text, input: part.input })));
  }
  route.closeAllConnections();
  route.close();
  return { calls: weather.calls, turns, errors };
}

async function embeddings(address) {
  const values = Array.from({ length: 40 }, (_, number) => `Number ${number}. `.repeat(170)); // 80 KB
  const model = provider(address).embedding("text-embedding-3-small");
  const told = await embedMany({ model, values, maxRetries: 0 });
  return { count: told.embeddings.length, length: told.embeddings[0].length };
}

await report({
  object_responses: (address) => object(responses(address)),
  object_chat: (address) => object(chat(address)),
  object_streamed: (address) => objectStreamed(responses(address)),
  output_of_text: (address) => outputOfText(responses(address)),
  output_with_function: (address) => outputWithFunction(responses(address)),
  output_with_function_chat: (address) => outputWithFunction(chat(address)),
  text_responses: (address) => text(responses(address)),
  text_chat: (address) => text(chat(address)),
  streamed_responses: (address) => textStreamed(responses(address)),
  streamed_chat: (address) => textStreamed(chat(address)),
  use_chat: (address) => useChat(responses(address)),
  embeddings,
});
