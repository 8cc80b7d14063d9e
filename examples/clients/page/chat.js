// A chat by the browser's WebSocket alone, which loses nothing when the connection does; docs/chat-client.md explains it.
const server = new URLSearchParams(location.search).get("server") ?? "http://127.0.0.1:8700";
const address = `${server.replace(/^http/, "ws")}/v1/realtime`;
const [log, state, form, text, stop] = ["log", "state", "form", "text", "stop"].map((id) => document.getElementById(id));

let socket;
let token; // of the session, to come back to it
let last; // the last event that was read: what comes behind it is sent again
let tries = 0;
let sent = 0;
let unanswered = []; // events of ours whose reply has not begun
let reply; // the message that is being written

function connect() {
  socket = new WebSocket(token ? `${address}?session=${token}&after=${last}` : address, ["realtime"]);
  socket.onopen = () => unanswered.forEach((event) => socket.send(JSON.stringify(event)));
  socket.onmessage = ({ data }) => take(JSON.parse(data));
  socket.onclose = ({ code, reason }) => {
    if (code === 4004 && token) token = undefined; // the session is no longer there: another one
    else if (code >= 3000 || code === 1008) return show(`Closed: ${reason}`);
    stop.disabled ||= !token;
    show("No connection; trying again …");
    setTimeout(connect, Math.min(10_000, 250 * 2 ** tries++) * (0.5 + Math.random() / 2));
  };
}

function send(...events) {
  for (const event of events) {
    event.event_id = `mine_${++sent}`; // the server drops what it has seen, so it may be sent twice
    unanswered.push(event);
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(event));
  }
}

function take(event) {
  last = event.event_id;
  switch (event.type) {
    case "session.created":
      token = event.loquent.resume_token;
      send({ type: "session.update", session: { type: "realtime", output_modalities: ["text"] } });
      return;
    case "session.updated":
      tries = 0;
      unanswered = unanswered.filter(({ type }) => type !== "session.update");
      return show("");
    case "response.created":
      unanswered = [];
      reply = message("assistant", "");
      stop.disabled = false;
      return;
    case "response.output_text.delta":
      reply.textContent += event.delta;
      return;
    case "response.done": {
      const { status, status_details: details, output } = event.response;
      const whole = output.flatMap(({ content }) => content ?? []).map((part) => part.text).join("");
      if (whole) reply.textContent = whole; // deltas are missing after a long time away
      show(status === "completed" ? "" : `${status}: ${details?.error?.message ?? details?.error?.code ?? details?.reason}`);
      stop.disabled = true;
      return;
    }
    case "error":
      return show(event.error.message);
  }
}

function message(role, words) {
  const element = document.createElement("div");
  element.className = role;
  element.textContent = words; // as text: nothing of a reply becomes part of the page
  log.append(element);
  element.scrollIntoView({ block: "nearest" });
  return element;
}

function show(words) {
  state.textContent = words;
}

form.onsubmit = (event) => {
  event.preventDefault();
  const words = text.value.trim();
  if (!words || !stop.disabled) return;
  text.value = "";
  message("user", words);
  const content = [{ type: "input_text", text: words }];
  send({ type: "conversation.item.create", item: { type: "message", role: "user", content } }, { type: "response.create" });
};
stop.onclick = () => socket.send(JSON.stringify({ type: "response.cancel" }));
connect();
