// What to write in one's own code for this very server.

import { copyText } from "../render/clipboard";
import { h } from "../render/dom";

interface Server {
  url: string;
  model: string;
  key: boolean; // it wants one
}

function texts({ url, model, key }: Server): Record<string, string> {
  const header = key ? ` \\\n  -H "Authorization: Bearer $LOQUENT_API_KEY"` : "";
  const secret = key ? `os.environ["LOQUENT_API_KEY"]` : `"none"`;
  const socket = url.replace(/^http/, "ws");
  return {
    curl: `curl -N ${url}/v1/chat/completions${header} \\
  -H "Content-Type: application/json" \\
  -d '{"model": "${model}", "stream": true, "messages": [{"role": "user", "content": "Hello!"}]}'`,
    Python: `${key ? "import os\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${url}/v1", api_key=${secret})
messages = [{"role": "user", "content": "Hello!"}]
for chunk in client.chat.completions.create(model="${model}", messages=messages, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)`,
    JavaScript: `const socket = new WebSocket("${socket}/v1/realtime", ["realtime"${key ? ", `openai-insecure-api-key.${clientSecret}`" : ""}]);
socket.onopen = () => {
  const content = [{ type: "input_text", text: "Hello!" }];
  socket.send(JSON.stringify({ type: "conversation.item.create", item: { type: "message", role: "user", content } }));
  socket.send(JSON.stringify({ type: "response.create", response: { output_modalities: ["text"] } }));
};
socket.onmessage = ({ data }) => {
  const event = JSON.parse(data);
  if (event.type === "response.output_text.delta") console.log(event.delta);
};`,
    "Your site": `<script src="${url}/widget.js" defer></script>
<loquent-chat${key ? ' secret-url="/chat-secret"' : ""}></loquent-chat>`,
  };
}

// Tabs with the snippets, each of which can be copied.
export function showSnippets(root: HTMLElement, server: Server): void {
  const code = h("code");
  const pre = h("pre", { tabindex: "0", role: "tabpanel", id: "snippet" }, code);
  const all = Object.entries(texts(server));
  const tabs = all.map(([name], at) => {
    const tab = h("button", { type: "button", role: "tab", "aria-controls": "snippet", id: `tab-${at}` }, name);
    tab.addEventListener("click", () => choose(at));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) choose((at + step + all.length) % all.length, true);
    });
    return tab;
  });
  const choose = (at: number, focus = false): void => {
    tabs.forEach((tab, index) => {
      tab.setAttribute("aria-selected", String(index === at));
      tab.tabIndex = index === at ? 0 : -1;
    });
    pre.setAttribute("aria-labelledby", `tab-${at}`);
    code.textContent = all[at]![1];
    if (focus) tabs[at]!.focus();
  };
  const copy = h("button", { type: "button" }, "Copy");
  copy.addEventListener("click", () => void copyText(code.textContent ?? "", code));
  choose(0);
  root.replaceChildren(h("div", { role: "tablist", "aria-label": "Languages" }, ...tabs), pre, copy);
}
