// The first page: a conversation, written or spoken, over the server's realtime websocket.

import { Sound, fromBase64, toBase64 } from "./sound.js";

const element = (id) => document.getElementById(id);
const log = element("log");
const WAITING = 1 << 20; // bytes that wait for a slow network, beyond which sound is dropped

let socket = null;
let sound = null;
let mode = "text"; // "text", "open" or "push"
let recording = false;
let reply = null; // the paragraph of the reply in progress
let item = ""; // the message that is being said
let key = "";

function state(text) { element("state").textContent = text; }

function line(kind, text) {
  const paragraph = document.createElement("p");
  paragraph.className = kind;
  paragraph.textContent = text;
  const stays = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(paragraph);
  if (stays) log.scrollTop = log.scrollHeight;
  return paragraph;
}

function send(type, fields = {}) {
  const event = { type, event_id: `${page}.${++count}`, ...fields };
  if (ANSWERS[type]) unanswered = [...unanswered, event].slice(-16);
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(event));
}

// A connection that breaks is replaced by another one to the same session, which sends what was missed.

const ANSWERS = { // what shows that the server has an event of ours
  "session.update": "session.updated",
  "conversation.item.create": "conversation.item.done",
  "conversation.item.truncate": "conversation.item.truncated",
  "response.create": "response.created",
  "response.cancel": "response.done",
  "input_audio_buffer.commit": "input_audio_buffer.committed",
  "input_audio_buffer.clear": "input_audio_buffer.cleared",
};
const RECOVERABLE = [1001, 1005, 1006, 1011, 1012, 1013, 1015];
const TRIES = 8; // within half a minute
const page = Math.random().toString(36).slice(2);
let count = 0;
let unanswered = [];
let token = ""; // with which this page may come back to its session
let last = ""; // the latest event of it
let tries = 0;
let returning = 0;

function note(event) {
  if (event.type === "session.created") token = event.loquent?.resume_token ?? "";
  const mine = token && event.event_id.startsWith(`event_${token.slice(5, 21)}`);
  if (mine) {
    last = event.event_id;
    tries = 0;
  }
  const answered = (ours) => ANSWERS[ours.type] === event.type || event.error?.event_id === ours.event_id;
  const at = unanswered.findIndex(answered);
  if (at >= 0) unanswered.splice(at, 1);
}

function comeBack() {
  state("Coming back …");
  const pause = Math.min(5000, 250 * 2 ** tries++) * (0.5 + Math.random() / 2);
  returning = setTimeout(() => connect().catch(() => {}), pause); // its end tries again
}

function connect() {
  clearTimeout(returning);
  const address = new URL("v1/realtime", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  if (token) address.search = new URLSearchParams({ session: token, after: last });
  const protocols = ["realtime", ...(key ? [`openai-insecure-api-key.${key}`] : [])];
  socket = new WebSocket(address, protocols);
  state("Connecting …");
  socket.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    note(event);
    take(event);
  };
  socket.onclose = ({ code }) => {
    socket = null;
    if (token && RECOVERABLE.includes(code) && tries < TRIES) return comeBack();
    token = last = "";
    tries = 0;
    unanswered = [];
    state(`Not connected (${code}). Send something to connect again.`);
    hush();
  };
  return new Promise((resolve, reject) => {
    socket.onopen = () => {
      if (token) {
        for (const event of unanswered) socket.send(JSON.stringify(event));
        state("Connected");
      }
      resolve();
    };
    socket.onerror = () => reject(new Error("The server can't be reached."));
  });
}

function configure() {
  send("session.update", {
    session: {
      type: "realtime",
      output_modalities: [mode === "text" ? "text" : "audio"],
      audio: {
        input: {
          transcription: { model: "whisper-1" },
          turn_detection: mode === "open" ? { type: "server_vad" } : null,
        },
      },
    },
  });
}

async function ready(wanted) {
  if (!socket) await connect();
  if (wanted !== "text" && !sound) sound = await Sound.open(piece);
  mode = wanted;
  configure();
}

function piece(pcm) {
  const hears = mode === "open" || (mode === "push" && recording);
  if (hears && socket && socket.bufferedAmount < WAITING) {
    send("input_audio_buffer.append", { audio: toBase64(pcm) });
  }
}

function interrupt() {
  if (!item || !sound) return;
  send("conversation.item.truncate", { item_id: item, content_index: 0, audio_end_ms: sound.stop() });
  item = "";
}

function hush() {
  sound?.stop();
  sound?.deafen();
  mode = "text";
  recording = false;
  element("open").setAttribute("aria-pressed", "false");
  element("push").classList.remove("active");
}

function take(event) {
  switch (event.type) {
    case "session.created": state("Connected"); element("unlock").hidden = true; break;
    case "session.updated": for (const warning of event.loquent?.warnings ?? []) line("error", warning); break;
    case "input_audio_buffer.speech_started": state("Listening …"); interrupt(); break;
    case "input_audio_buffer.speech_stopped": state("Connected"); break;
    case "conversation.item.input_audio_transcription.completed": line("user", event.transcript); break;
    case "conversation.item.input_audio_transcription.failed": line("error", event.error.message); break;
    case "response.created": reply = null; sound?.begin(); break;
    case "response.output_text.delta":
    case "response.output_audio_transcript.delta":
      reply ??= line("assistant", "");
      reply.textContent += event.delta;
      log.scrollTop = log.scrollHeight;
      break;
    case "response.output_audio.delta": item = event.item_id; sound?.play(fromBase64(event.delta)); break;
    case "response.done": finish(event.response); break;
    case "error": refuse(event.error); break;
  }
}

function finish(response) {
  reply = null;
  const error = response.status_details?.error;
  if (error && error.code !== "no_speech") line("error", error.message);
}

function refuse(error) {
  if (["response_cancel_not_active", "item_truncate_invalid_item_id", "history_unavailable"].includes(error.code)) return;
  if (error.code === "session_not_found") return; // the connection's end says so
  line("error", error.message);
  if (error.code === "invalid_api_key") element("unlock").hidden = false;
}

async function attempt(work) {
  try {
    await work();
  } catch (error) {
    hush();
    line("error", error.name === "NotAllowedError" ? "The browser does not allow the microphone here." : error.message);
  }
}

element("write").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = element("text").value.trim();
  if (!text) return;
  element("text").value = "";
  attempt(async () => {
    if (!socket) await ready(mode);
    if (mode === "text") configure();
    interrupt();
    send("response.cancel");
    line("user", text);
    send("conversation.item.create", {
      item: { type: "message", role: "user", content: [{ type: "input_text", text }] },
    });
    send("response.create");
  });
});

element("open").addEventListener("click", () => attempt(async () => {
  if (mode === "open") {
    hush();
    configure();
    return;
  }
  await ready("open");
  await sound.listen();
  element("open").setAttribute("aria-pressed", "true");
}));

async function press() {
  if (recording) return;
  recording = true;
  element("push").classList.add("active");
  await ready("push");
  await sound.listen();
  interrupt();
  send("response.cancel");
  send("input_audio_buffer.clear");
  if (!recording) release();
}

function release() {
  recording = false;
  element("push").classList.remove("active");
  send("input_audio_buffer.commit");
  send("response.create");
}

const push = element("push");
push.addEventListener("pointerdown", () => attempt(press));
for (const end of ["pointerup", "pointerleave", "pointercancel"]) {
  push.addEventListener(end, () => { if (recording) release(); });
}
push.addEventListener("keydown", (event) => { if (event.key === " " && !event.repeat) attempt(press); });
push.addEventListener("keyup", (event) => { if (event.key === " " && recording) release(); });

element("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  key = element("key").value.trim();
  token = "";
  socket?.close();
  attempt(connect);
});

attempt(connect);
