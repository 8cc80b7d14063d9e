// A spoken conversation with a function, by the Agents SDK: npm install @openai/agents zod; node agents_realtime.mjs
// The reply is written to reply.wav. Sound for session.sendAudio and from "audio" is PCM, mono, 16 bits, 24,000 Hz.
import { writeFileSync } from "node:fs";
import { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession, tool } from "@openai/agents/realtime";
import { z } from "zod";

const url = process.env.LOQUENT_URL ?? "http://127.0.0.1:8700";
const priceOfLamp = tool({
  name: "price_of_lamp",
  description: "Get the price of a lamp.",
  parameters: z.object({ lamp: z.string().describe("The name of the lamp.") }),
  execute: async ({ lamp }) => {
    console.log(`[price_of_lamp ${lamp}]`);
    return `The ${lamp} costs 39 euros.`;
  },
});
const agent = new RealtimeAgent({
  name: "assistant",
  instructions: "You are the assistant of a shop for lamps. Answer in one short sentence.",
  tools: [priceOfLamp],
});
const session = new RealtimeSession(agent, {
  transport: new OpenAIRealtimeWebSocket({ url: `${url.replace(/^http/, "ws")}/v1/realtime` }),
  model: "default",
  config: { outputModalities: ["audio"] },
  tracingDisabled: true, // else the SDK reports to its maker
});

const sound = [];
session.on("audio", ({ data }) => sound.push(Buffer.from(data)));
const text = new Promise((resolve, reject) => {
  session.on("error", ({ error }) => reject(new Error(JSON.stringify(error))));
  session.on("agent_end", (_context, _agent, said) => { if (said) resolve(said); }); // calls alone end without words
});
await session.connect({ apiKey: process.env.LOQUENT_API_KEY ?? "none" });
session.sendMessage(process.argv[2] ?? "What is the price of the lamp Aurora?");
console.log(await text);
session.close();

const pcm = Buffer.concat(sound);
const header = Buffer.from("RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\0\0\0\0\0\0\0\0\x02\0\x10\0data\0\0\0\0", "latin1");
[[4, 36 + pcm.length], [24, 24_000], [28, 48_000], [40, pcm.length]].forEach(([at, value]) => header.writeUInt32LE(value, at));
writeFileSync("reply.wav", Buffer.concat([header, pcm]));
