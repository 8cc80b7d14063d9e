// The openai package in JavaScript, over TLS: chat completions, Responses, and Realtime, which it speaks over wss alone.
import OpenAI from "openai";
import { OpenAIRealtimeWebSocket } from "openai/realtime/websocket";
import { OpenAIRealtimeWS } from "openai/realtime/ws";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { INSTRUCTIONS, QUESTION, Weather, report } from "./cases.mjs";

const client = (address) =>
  new OpenAI({ baseURL: `${address}/v1`, apiKey: "none", maxRetries: 0, dangerouslyAllowBrowser: true });
const City = z.object({ name: z.string(), country: z.string() });
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};

async function chat(address) {
  const weather = new Weather();
  const runner = client(address).chat.completions.runTools({
    model: "gpt-4o-mini",
    stream: true,
    messages: [{ role: "system", content: INSTRUCTIONS }, { role: "user", content: QUESTION }],
    tools: [
      {
        type: "function",
        function: {
          name: weather.name,
          description: weather.description,
          parameters,
          parse: JSON.parse,
          function: (args) => weather.run(args),
        },
      },
    ],
  });
  return { text: await runner.finalContent(), calls: weather.calls };
}

async function chatTyped(address) {
  const told = await client(address).chat.completions.parse({
    model: "gpt-4o-mini",
    messages: [{ role: "user", content: "The capital of France." }],
    response_format: zodResponseFormat(City, "city"),
  });
  return told.choices[0].message.parsed;
}

async function responses(address) {
  const weather = new Weather();
  const openai = client(address);
  const tools = [{ type: "function", name: weather.name, description: weather.description, parameters, strict: true }];
  const options = { model: "gpt-5-mini", instructions: INSTRUCTIONS, tools };
  const numbers = [];
  const first = openai.responses.stream({ ...options, input: QUESTION, tool_choice: "required" });
  first.on("event", (event) => numbers.push(event.sequence_number));
  const called = await first.finalResponse();
  const output = called.output
    .filter((item) => item.type === "function_call")
    .map((item) => ({ type: "function_call_output", call_id: item.call_id, output: weather.run(JSON.parse(item.arguments)) }));
  const second = await openai.responses.create({ ...options, input: output, previous_response_id: called.id });
  return { calls: weather.calls, text: second.output_text, numbers };
}

async function responsesTyped(address) {
  const told = await client(address).responses.parse({
    model: "gpt-5-mini",
    input: "The capital of France.",
    text: { format: zodTextFormat(City, "city") },
  });
  return told.output_parsed;
}

// A talk by hand, as the package's README has it.
async function realtime(rt, opened) {
  const weather = new Weather();
  const told = { calls: weather.calls, text: "", errors: [], kinds: [] };
  const done = new Promise((resolve) => {
    rt.on("error", (error) => { told.errors.push(`${error}`); resolve(); });
    rt.on("event", (event) => told.kinds.push(event.type));
    rt.on("response.output_text.delta", (event) => { told.text += event.delta; });
    rt.on("response.done", ({ response }) => {
      const calls = response.output.filter((item) => item.type === "function_call");
      if (!calls.length) return resolve();
      for (const { call_id, arguments: args } of calls) {
        const output = weather.run(JSON.parse(args));
        rt.send({ type: "conversation.item.create", item: { type: "function_call_output", call_id, output } });
      }
      rt.send({ type: "response.create", response: { tool_choice: "auto" } });
    });
  });
  await opened;
  const tools = [{ type: "function", name: weather.name, description: weather.description, parameters }];
  rt.send({
    type: "session.update",
    session: { type: "realtime", output_modalities: ["text"], instructions: INSTRUCTIONS, tools, tool_choice: "required" },
  });
  const content = [{ type: "input_text", text: QUESTION }];
  rt.send({ type: "conversation.item.create", item: { type: "message", role: "user", content } });
  rt.send({ type: "response.create" });
  await done;
  rt.close();
  return told;
}

function realtimeWs(address) {
  const rt = new OpenAIRealtimeWS({ model: "gpt-realtime" }, client(address));
  return realtime(rt, new Promise((resolve) => rt.socket.on("open", resolve)));
}

function realtimeNative(address) {
  const rt = new OpenAIRealtimeWebSocket({ model: "gpt-realtime", dangerouslyAllowBrowser: true }, client(address));
  return realtime(rt, new Promise((resolve) => rt.socket.addEventListener("open", resolve)));
}

await report({
  chat,
  chat_typed: chatTyped,
  responses,
  responses_typed: responsesTyped,
  realtime_ws: realtimeWs,
  realtime_native: realtimeNative,
});
