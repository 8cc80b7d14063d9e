// Without a library, in browsers and in Node: a streamed chat completion by fetch. node fetch.mjs
const url = globalThis.process?.env.LOQUENT_URL ?? "http://127.0.0.1:8700";
const key = globalThis.process?.env.LOQUENT_API_KEY; // in a page, ask your own server instead: a key is no page's business

// Yields the pieces of the reply; a signal of an AbortController stops it.
export async function* reply(messages, signal) {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) },
    body: JSON.stringify({ model: "default", stream: true, messages }),
    signal,
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  let waiting = "";
  for await (const bytes of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (waiting + bytes).split("\n");
    waiting = lines.pop(); // a line may come in two parts
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const chunk = JSON.parse(line.slice(6));
      if (chunk.error) throw new Error(chunk.error.message);
      yield chunk.choices[0]?.delta.content ?? "";
    }
  }
}

if (globalThis.process) {
  const question = process.argv[2] ?? "Name the capital of France.";
  for await (const text of reply([{ role: "user", content: question }])) process.stdout.write(text);
  console.log();
}
