// The first page: a chat with the server that it came from, and what happens behind it.

import type { LoquentChatElement } from "../../widget";
import type { ServerEvent } from "../realtime/events";
import { copyText } from "../render/clipboard";
import { h } from "../render/dom";
import { Latency } from "./latency";
import { SettingsForm } from "./settings";
import { showSnippets } from "./snippets";
import { showVerdict } from "./verdict";

const MOST_EVENTS = 500; // that are shown

const find = <Type extends HTMLElement>(id: string): Type => document.getElementById(id) as Type;
const chat = document.querySelector<LoquentChatElement>("loquent-chat")!;
const url = new URL(".", location.href).href.replace(/\/$/, "");
let model = "";
let key = "";

// Settings

const settings = new SettingsForm(find("settings"), (chosen) => {
  find("refused").textContent = "";
  chat.setAttribute("microphone", settings.microphone);
  chat.session = chosen;
});
chat.setAttribute("microphone", settings.microphone);
chat.session = settings.settings;

// Latency and events

const latency = new Latency(find("latency"), find("plot"));
const list = find("events");
const filter = find<HTMLInputElement>("filter");
const paused = find<HTMLInputElement>("paused");
const events: ServerEvent[] = [];

function line(event: ServerEvent): HTMLLIElement {
  const text = JSON.stringify(event);
  return h("li", { hidden: !text.includes(filter.value), title: text.slice(0, 2000) }, text.length > 300 ? `${text.slice(0, 300)} …` : text);
}

function note(event: ServerEvent): void {
  events.push(event);
  if (events.length > MOST_EVENTS) events.shift();
  if (paused.checked || !list.closest("details")!.open) return;
  list.append(line(event));
  if (list.childElementCount > MOST_EVENTS) list.firstElementChild!.remove();
  list.scrollTop = list.scrollHeight;
}

function redraw(): void {
  list.replaceChildren(...events.map(line));
  list.scrollTop = list.scrollHeight;
}

filter.addEventListener("input", redraw);
paused.addEventListener("change", redraw);
list.closest("details")!.addEventListener("toggle", redraw);
find("copy").addEventListener("click", () => {
  const shown = events.map((event) => JSON.stringify(event)).filter((text) => text.includes(filter.value));
  void copyText(shown.join("\n"), list);
});

// The chat

chat.on("message", () => latency.asked());
chat.on("error", ({ message }) => (find("refused").textContent = message));
chat.on("event", (each) => {
  const event = each as ServerEvent;
  latency.take(event);
  note(event);
  if (event.session?.model && event.session.model !== model) {
    model = event.session.model;
    introduce();
  }
  if (event.type === "response.done") showVerdict(find("screening"), find("verdict"), event.loquent?.screening);
});
chat.on("state", ({ state, reason }) => {
  find("unlock").hidden = !(state === "refused" && reason === "invalid_api_key");
});

// The key of who operates the server; a site's visitors get client secrets from their own.
find("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  key = find<HTMLInputElement>("key").value.trim();
  chat.getSecret = () => Promise.resolve(key);
  introduce();
});

function introduce(): void {
  find("server").textContent = [model, url].filter(Boolean).join(" at ");
  showSnippets(find("snippets"), { url, model: model || "default", key: key !== "" });
}

introduce();
