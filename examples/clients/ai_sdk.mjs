// The Vercel AI SDK with a function, streamed: npm install ai @ai-sdk/openai zod; node ai_sdk.mjs
import { createOpenAI } from "@ai-sdk/openai";
import { isStepCount, streamText, tool } from "ai";
import { z } from "zod";

const url = process.env.LOQUENT_URL ?? "http://127.0.0.1:8700";
const loquent = createOpenAI({ baseURL: `${url}/v1`, apiKey: process.env.LOQUENT_API_KEY ?? "none" });

const stream = streamText({
  model: loquent("default"),
  instructions: "You are the assistant of a shop for lamps. Answer in one short sentence.",
  prompt: process.argv[2] ?? "What is the price of the lamp Aurora?",
  tools: {
    price_of_lamp: tool({
      description: "Get the price of a lamp.",
      inputSchema: z.object({ lamp: z.string().describe("The name of the lamp.") }),
      execute: ({ lamp }) => {
        console.log(`[price_of_lamp ${lamp}]`);
        return `The ${lamp} costs 39 euros.`;
      },
    }),
  },
  stopWhen: isStepCount(4),
  onError: ({ error }) => { throw error; },
});
for await (const text of stream.textStream) process.stdout.write(text);
console.log();
// In a route of a web framework: return stream.toUIMessageStreamResponse(), which the hook useChat reads.
