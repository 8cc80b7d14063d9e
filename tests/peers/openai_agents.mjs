// The Agents SDK in JavaScript: a loop over a function, by chat completions, Responses and Realtime.
import OpenAI from "openai";
import { Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, run, setTracingDisabled, tool } from "@openai/agents";
import { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession, tool as realtimeTool } from "@openai/agents/realtime";
import { z } from "zod";
import { INSTRUCTIONS, QUESTION, Weather, report } from "./cases.mjs";
import { Microphone } from "./microphone.mjs";

setTracingDisabled(true);

const client = (address) => new OpenAI({ baseURL: `${address}/v1`, apiKey: "none", maxRetries: 0 });
const chatModel = (address) => new OpenAIChatCompletionsModel(client(address), "gpt-4o-mini");
const responsesModel = (address) => new OpenAIResponsesModel(client(address), "gpt-5-mini");

const offered = (weather, make = tool) =>
  make({
    name: weather.name,
    description: weather.description,
    parameters: z.object({ city: z.string() }),
    execute: (args) => weather.run(args),
  });

async function loop(model, { stream = false, toolChoice = "required" } = {}) {
  const weather = new Weather();
  const agent = new Agent({
    name: "assistant",
    instructions: INSTRUCTIONS,
    model,
    tools: [offered(weather)],
    modelSettings: { toolChoice },
  });
  const outcome = await run(agent, QUESTION, { stream });
  const kinds = [];
  if (stream) {
    for await (const event of outcome) kinds.push(event.data?.event?.type ?? event.data?.type ?? event.type);
    await outcome.completed;
  }
  return { calls: weather.calls, text: outcome.finalOutput, kinds };
}

async function typed(address) {
  const agent = new Agent({
    name: "assistant",
    instructions: INSTRUCTIONS,
    model: responsesModel(address),
    outputType: z.object({ name: z.string(), country: z.string() }),
  });
  return (await run(agent, "The capital of France.")).finalOutput;
}

async function realtime(address, modality) {
  const weather = new Weather();
  const agent = new RealtimeAgent({ name: "assistant", instructions: INSTRUCTIONS, tools: [offered(weather, realtimeTool)] });
  const transport = new OpenAIRealtimeWebSocket({ url: address.replace("http", "ws") + "/v1/realtime?model=gpt-realtime" });
  const session = new RealtimeSession(agent, {
    transport,
    model: "gpt-realtime",
    config: { outputModalities: [modality] },
    tracingDisabled: true,
  });
  const told = { calls: weather.calls, text: "", errors: [], kinds: [], sound: 0 };
  const done = new Promise((resolve) => {
    session.on("error", (error) => { told.errors.push(JSON.stringify(error)); resolve(); });
    session.on("agent_tool_start", () => told.kinds.push("tool_start"));
    session.on("agent_tool_end", () => told.kinds.push("tool_end"));
    session.on("audio", (event) => { told.sound += event.data.byteLength; });
    session.on("agent_end", (_context, _agent, text) => {
      told.kinds.push("agent_end");
      told.text = text;
      if (weather.calls.length && text) resolve();
    });
  });
  await session.connect({ apiKey: "none" });
  session.sendMessage(QUESTION);
  await done;
  session.close();
  return told;
}

// A spoken conversation: a question that needs the function, another one, and an interruption of its answer.
async function conversation(address) {
  const weather = new Weather();
  const agent = new RealtimeAgent({ name: "assistant", instructions: INSTRUCTIONS, tools: [offered(weather, realtimeTool)] });
  const transport = new OpenAIRealtimeWebSocket({ url: address.replace("http", "ws") + "/v1/realtime?model=gpt-realtime" });
  const session = new RealtimeSession(agent, {
    transport,
    model: "gpt-realtime",
    config: { outputModalities: ["audio"] }, // its own defaults are semantic_vad and a transcription
    tracingDisabled: true,
  });
  const told = { calls: weather.calls, heard: [], errors: [], interrupted: 0, sound: 0 };
  session.on("error", (error) => told.errors.push(JSON.stringify(error)));
  session.on("audio", (event) => { told.sound += event.data.byteLength; });
  session.on("audio_interrupted", () => { told.interrupted++; });
  session.on("history_updated", (history) => {
    told.heard = history
      .filter((item) => item.type === "message" && item.role === "user")
      .flatMap((item) => item.content)
      .map((part) => part.transcript)
      .filter(Boolean);
  });
  await session.connect({ apiKey: "none" });
  const microphone = new Microphone((pcm) => session.sendAudio(pcm));
  const until = async (condition) => { while (!condition()) await new Promise((resolve) => setTimeout(resolve, 50)); };
  microphone.say("weather");
  await until(() => weather.calls.length && told.sound);
  await new Promise((resolve) => setTimeout(resolve, 5000)); // the answer is being played
  const before = told.sound;
  microphone.say("story");
  await until(() => told.sound > before + 2 * 48000);
  told.interrupted = 0;
  microphone.say("stop");
  await until(() => told.interrupted || told.errors.length);
  microphone.close();
  session.close();
  return told;
}

await report({
  conversation,
  chat: (address) => loop(chatModel(address)),
  chat_streamed: (address) => loop(chatModel(address), { stream: true }),
  responses: (address) => loop(responsesModel(address)),
  responses_streamed: (address) => loop(responsesModel(address), { stream: true }),
  responses_chosen: (address) => loop(responsesModel(address), { toolChoice: undefined }),
  typed,
  realtime: (address) => realtime(address, "text"),
  realtime_spoken: (address) => realtime(address, "audio"),
});
