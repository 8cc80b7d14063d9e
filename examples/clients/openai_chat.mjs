// A conversation in Node over Responses, streamed, which the server stores: npm install openai; node openai_chat.mjs
import OpenAI from "openai";

const url = process.env.LOQUENT_URL ?? "http://127.0.0.1:8700";
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: process.env.LOQUENT_API_KEY ?? "none" });
const instructions = "You are a helpful assistant. Answer in one short sentence.";
const asked = process.argv.slice(2);
const questions = asked.length ? asked : ["Name the capital of France.", "And of Italy?"];

let previous;
for (const input of questions) {
  console.log(`> ${input}`);
  const stream = await client.responses.create({
    model: "default", instructions, input, previous_response_id: previous, stream: true,
  });
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") process.stdout.write(event.delta);
    if (event.type === "response.failed") throw new Error(event.response.error.message);
    if (event.type === "response.created") previous = event.response.id;
  }
  console.log();
}
