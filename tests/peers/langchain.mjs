// LangChain in JavaScript: an agent with a function, structured output, embeddings.
import { OpenAIEmbeddings, ChatOpenAI } from "@langchain/openai";
import { createAgent, tool } from "langchain";
import { z } from "zod";
import { INSTRUCTIONS, QUESTION, Weather, report } from "./cases.mjs";

const City = z.object({ name: z.string(), country: z.string() });

const model = (address, options = {}) =>
  new ChatOpenAI({ model: "gpt-4o-mini", apiKey: "none", maxRetries: 0, configuration: { baseURL: `${address}/v1` }, ...options });

const offered = (weather) =>
  tool((args) => weather.run(args), {
    name: weather.name,
    description: weather.description,
    schema: z.object({ city: z.string() }),
  });

async function agent(address, options) {
  const weather = new Weather();
  const made = createAgent({ model: model(address, options), tools: [offered(weather)], systemPrompt: INSTRUCTIONS });
  const { messages } = await made.invoke({ messages: [{ role: "user", content: QUESTION }] });
  return { calls: weather.calls, text: messages.at(-1).text, kinds: messages.map((message) => message.type) };
}

async function streamed(address) {
  const weather = new Weather();
  const made = createAgent({ model: model(address), tools: [offered(weather)], systemPrompt: INSTRUCTIONS });
  const texts = [];
  const stream = await made.stream({ messages: [{ role: "user", content: QUESTION }] }, { streamMode: "messages" });
  for await (const [chunk] of stream) if (chunk.type === "ai" && chunk.text) texts.push(chunk.text);
  return { calls: weather.calls, text: texts.join(""), chunks: texts.length };
}

const structured = (address, method, options) =>
  model(address, options).withStructuredOutput(City, { method, name: "city" }).invoke("The capital of France.");

async function embeddings(address) {
  const embedder = new OpenAIEmbeddings({
    model: "text-embedding-3-small", apiKey: "none", maxRetries: 0, configuration: { baseURL: `${address}/v1` },
  });
  const vectors = await embedder.embedDocuments(Array.from({ length: 40 }, (_, number) => `Number ${number}. `.repeat(170)));
  return { count: vectors.length, length: vectors[0].length };
}

await report({
  agent_chat: (address) => agent(address),
  agent_responses: (address) => agent(address, { useResponsesApi: true }),
  streamed,
  schema_chat: (address) => structured(address, "jsonSchema"),
  schema_responses: (address) => structured(address, "jsonSchema", { useResponsesApi: true }),
  schema_by_function: (address) => structured(address, "functionCalling"),
  embeddings,
});
