// <loquent-chat>: the widget as a page sees it.

import { Chat } from "../realtime/chat";
import type { Change, Message } from "../realtime/conversation";
import type { Source } from "../realtime/credentials";
import { isSound, type Problem, type Rating, type ServerEvent } from "../realtime/events";
import type { State } from "../realtime/link";
import { copyText } from "../render/clipboard";
import { h } from "../render/dom";
import { clean } from "../render/text";
import { MessageList } from "./list";
import { Microphone } from "./microphone";
import { directionOf, fill, localeOf, LOCALES, type Locale, type Texts } from "./locales";
import { Panel } from "./panel";
import { Speech } from "./speech";
import css from "./styles.css";
import type { LoquentHappenings, LoquentUser } from "../../widget";

export type SecretCallback = Exclude<Source, string>;

type Listener<Name extends keyof LoquentHappenings> = (detail: LoquentHappenings[Name]) => void;

const SCRIPT = document.currentScript instanceof HTMLScriptElement ? document.currentScript : null;
const LATE = 700; // ms without a connection, before that is said

export class LoquentChat extends HTMLElement {
  static observedAttributes = [
    "server", "secret-url", "user", "locale", "heading", "placeholder", "greeting", "quick-replies", "speech", "microphone",
    "position", "open",
  ];

  // A callback that gets client secrets, in place of the attribute `secret-url`.
  #getSecret: SecretCallback | null = null;
  #session: Record<string, unknown> = {};
  #user: LoquentUser = {};
  #locale: Locale = "en";
  #chat: Chat | null = null;
  #panel: Panel;
  #list: MessageList;
  #speech: Speech;
  #aloud = false;
  #microphone = new Microphone();
  #talks = false; // the user speaks, or may
  #unread = 0;
  #greeting = h("div", { class: "message assistant", part: "message greeting", hidden: true });
  #listeners = new Map<keyof LoquentHappenings, Set<Listener<never>>>();
  #late = 0;
  #before: HTMLElement | null = null; // that had the focus before the panel was opened
  #announced = ""; // the reply that was announced last

  constructor() {
    super();
    this.#panel = new Panel({
      toggle: () => this.toggle(),
      close: () => this.close(),
      reset: () => this.reset(),
      speak: () => void this.#toggleSpeech(),
      send: (text) => this.send(text),
      stop: () => this.stop(),
      reconnect: () => this.#chat?.open(),
      latest: () => this.#list.toEnd(),
      talk: (on) => void this.#talk(on),
    });
    this.#speech = new Speech(() => this.#busy());
    const around = this;
    this.#list = new MessageList(
      this.#panel.log,
      {
        get server() { return around.server; },
        get texts() { return around.#texts; },
        get locale() { return around.#locale; },
        get user() { return around.#user.name ?? ""; },
        isLast: (message) => this.#chat?.conversation.last === message,
        copy: (message) => copyText(message.text, this.#panel.element),
        retry: () => this.#retry(),
        rate: (message, rating) => this.#rate(message, rating),
      },
      (away) => this.#panel.away(away),
    );
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(css);
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [sheet];
    root.append(this.#panel.element, this.#panel.launcher);
    this.#panel.log.prepend(this.#greeting);
    this.#panel.aloud(false);
    root.addEventListener("keydown", (event) => this.#escape(event as KeyboardEvent));
  }

  // The page's side

  get server(): string {
    const given = this.getAttribute("server") || (SCRIPT?.src ?? "").replace(/\/widget(\.\w+)?\.js(\?.*)?$/, "") || location.origin;
    return new URL(given, location.href).href.replace(/\/+$/, "");
  }

  get getSecret(): SecretCallback | null {
    return this.#getSecret;
  }

  set getSecret(source: SecretCallback | null) {
    this.#getSecret = source;
    this.#restart();
  }

  // Settings of the session, as `session.update` takes them.
  get session(): Record<string, unknown> {
    return this.#session;
  }

  set session(session: Record<string, unknown>) {
    this.#session = session;
    this.#chat?.configure(this.#settings);
  }

  get messages(): readonly Message[] {
    return this.#chat?.conversation.messages ?? [];
  }

  open(): void {
    this.setAttribute("open", "");
  }

  close(): void {
    this.removeAttribute("open");
  }

  toggle(): void {
    this.toggleAttribute("open");
  }

  // Say something in the user's place; opens the connection, not the panel.
  send(text: string): void {
    const said = clean(text).trim();
    if (!said || !this.#chat) return;
    this.#hush();
    this.#panel.replies([]);
    this.#chat.open();
    this.#chat.say(said, this.#aloud);
    this.#tell("message", { id: this.#chat.conversation.last?.id ?? "", text: said });
    this.#busy();
  }

  // Stop the reply in progress, and its sound.
  stop(): void {
    this.#chat?.stop();
    this.#hush();
    this.#busy();
  }

  // Whose conversation it is. Another `id` is another conversation.
  setUser(user: LoquentUser): void {
    const other = (user.id ?? "") !== this.#owner;
    this.#user = { ...user };
    if (other) this.#restart();
    else this.#again();
  }

  setLocale(locale: string): void {
    this.setAttribute("locale", locale);
  }

  setQuickReplies(texts: readonly string[]): void {
    this.#panel.replies(texts.map((each) => clean(each)).filter(Boolean).slice(0, 12));
  }

  // Begin another conversation.
  reset(): void {
    this.#hush();
    this.#chat?.reset();
    this.#suggest();
    this.#panel.announce("");
    if (this.hasAttribute("open")) this.#panel.input.focus();
  }

  // Have a function called when something happens; what is returned ends that.
  on<Name extends keyof LoquentHappenings>(name: Name, listener: Listener<Name>): () => void {
    const all = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, all.add(listener as Listener<never>));
    return () => void all.delete(listener as Listener<never>);
  }

  // The browser's side

  connectedCallback(): void {
    this.#translate();
    this.#restart();
    if (this.#isOpen) this.#opened(false);
  }

  disconnectedCallback(): void {
    this.#chat?.leave();
    this.#chat = null;
    this.#speech.close();
    this.#deafen();
  }

  attributeChangedCallback(name: string, before: string | null, after: string | null): void {
    if (before === after || !this.#chat) return; // what comes before it is on a page is read when it is
    if (name === "server" || name === "secret-url" || name === "user") this.#restart();
    else if (name === "open" || name === "position") this.#isOpen ? this.#opened(name === "open") : this.#closed();
    else this.#translate();
  }

  get #isOpen(): boolean {
    return this.hasAttribute("open") || this.getAttribute("position") === "inline";
  }

  get #owner(): string {
    return this.#user.id ?? this.getAttribute("user") ?? "";
  }

  get #texts(): Texts {
    return LOCALES[this.#locale];
  }

  // A conversation with this server, for this user.
  #restart(): void {
    if (!this.isConnected) return;
    this.#chat?.leave();
    this.#hush();
    this.#unread = 0;
    const source: Source | null = this.#getSecret ?? this.getAttribute("secret-url");
    this.#chat = null; // while the next one is made, nothing is its
    const chat: Chat = new Chat(
      { server: this.server, source, user: this.#owner, session: this.#settings },
      {
        changed: (change) => this.#chat === chat && this.#changed(change),
        state: (state, reason) => this.#chat === chat && this.#state(state, reason),
        failed: (problem) => this.#chat === chat && this.#failed(problem),
        event: (event) => this.#chat === chat && this.#event(event),
      },
    );
    this.#chat = chat;
    this.#again();
    this.#suggest();
    this.#state(chat.state, "");
    if (this.#isOpen) chat.open();
  }

  #again(): void {
    this.#list.clear();
    this.#list.show(this.messages);
  }

  #translate(): void {
    this.#locale = localeOf(this.getAttribute("locale") ?? (document.documentElement.lang || navigator.language));
    const { element, launcher } = this.#panel;
    for (const each of [element, launcher]) {
      each.lang = this.#locale;
      each.dir = directionOf(this.#locale);
    }
    this.#panel.label(this.#texts, this.getAttribute("heading") ?? "", this.getAttribute("placeholder") ?? "");
    this.#panel.speaker.hidden = this.getAttribute("speech") === "off";
    this.#panel.hears(this.hasAttribute("microphone") && Microphone.able, this.#holds);
    const greeting = this.getAttribute("greeting") ?? "";
    this.#greeting.replaceChildren(h("div", { class: "body", part: "body", dir: "auto" }, clean(greeting)));
    this.#greeting.hidden = !greeting;
    this.#badge();
    this.#suggest();
    if (this.#chat) {
      this.#again();
      this.#state(this.#chat.state, "");
    }
  }

  #suggest(): void {
    const texts = (this.getAttribute("quick-replies") ?? "").split("|").map((each) => each.trim());
    if (this.messages.length === 0) this.setQuickReplies(texts);
    else this.#panel.replies([]);
  }

  #opened(focus: boolean): void {
    const { element, launcher, input } = this.#panel;
    element.hidden = false;
    this.#unread = 0;
    this.#badge();
    launcher.setAttribute("aria-expanded", "true");
    this.#chat?.open();
    this.#list.toEnd();
    if (focus) {
      const active = document.activeElement;
      this.#before = active instanceof HTMLElement && active !== this && active !== document.body ? active : null;
      input.focus();
    }
    this.#tell("open", undefined);
  }

  #closed(): void {
    const { element, launcher } = this.#panel;
    const had = element.contains(this.shadowRoot!.activeElement);
    element.hidden = true;
    launcher.setAttribute("aria-expanded", "false");
    this.#badge();
    if (had) (this.#before?.isConnected ? this.#before : launcher).focus();
    this.#before = null;
    this.#hush();
    this.#tell("close", undefined);
  }

  #escape(event: KeyboardEvent): void {
    if (event.key !== "Escape" || event.isComposing || this.getAttribute("position") === "inline") return;
    if (!this.#isOpen) return;
    event.stopPropagation();
    this.close();
  }

  #badge(): void {
    const { badge, launcher } = this.#panel;
    const count = this.#unread > 9 ? "9+" : String(this.#unread);
    badge.textContent = count;
    badge.hidden = this.#unread === 0;
    const unread = this.#unread ? `, ${fill(this.#texts.unread, this.#unread, this.#locale)}` : "";
    launcher.setAttribute("aria-label", (this.#isOpen ? this.#texts.close : this.#texts.open) + unread);
  }

  // The conversation's side

  #changed(change: Change): void {
    if (change === "all") this.#list.show(this.messages);
    else this.#list.update(change);
    this.#busy();
  }

  #event(event: ServerEvent): void {
    if (event.type === "input_audio_buffer.speech_started") this.#hush();
    if (isSound(event) && (this.#aloud || this.#talks)) {
      this.#speech.play(event.item_id ?? "", event.delta ?? "");
      this.#busy();
    }
    if (event.type === "response.done") this.#replied(event.response?.id ?? "");
    this.#tell("event", { ...event });
  }

  #replied(id: string): void {
    const message = this.#chat?.conversation.ofResponse(id);
    if (!message || this.#announced === id) return;
    this.#announced = id;
    if (!this.#isOpen && message.text) {
      this.#unread++;
      this.#badge();
    }
    if (this.#isOpen && !document.hidden) this.#panel.announce(this.#list.plain(message) || this.#texts.failed);
    this.#tell("reply", { id: message.id, text: message.text, status: message.status });
  }

  #state(state: State, reason: string): void {
    clearTimeout(this.#late);
    const { waiting, offline, refused, connecting, elsewhere } = this.#texts;
    const [text, again] =
      state === "refused" ? [refused, true]
      : state === "waiting" ? [navigator.onLine ? waiting : offline, true]
      : state === "connecting" ? [connecting, false]
      : reason === "session_taken_over" ? [elsewhere, true]
      : ["", false];
    // A connection that is back in a moment is no news.
    if (text && state !== "refused") this.#late = setTimeout(() => this.#panel.state(text, again), LATE);
    else this.#panel.state(text, again);
    if (state === "refused") this.#panel.announce(refused);
    this.#tell("state", { state, reason });
  }

  #failed(problem: Problem): void {
    this.#tell("error", { code: problem.code ?? "", message: problem.message });
  }

  #busy(): void {
    this.#panel.busy(Boolean(this.#chat?.conversation.reply) || this.#speech.playing);
  }

  // What its buttons do

  #retry(): void {
    const { conversation } = this.#chat!;
    const last = conversation.last;
    this.#hush();
    if (last?.role === "user" && last.status === "failed") {
      conversation.remove(last.id);
      this.send(last.text);
    } else {
      this.#chat!.retry(this.#aloud);
    }
    this.#panel.input.focus();
  }

  #rate(message: Message, rating: Rating | null): void {
    this.#chat?.rate(message.id, rating);
    this.#tell("feedback", { id: message.id, rating });
  }

  async #toggleSpeech(): Promise<void> {
    if (this.#aloud) this.#hush();
    else {
      try {
        await this.#speech.enable();
      } catch (error) {
        console.warn("loquent-chat: no sound:", error);
        return;
      }
    }
    this.#aloud = !this.#aloud;
    this.#panel.aloud(this.#aloud);
  }

  get #holds(): boolean {
    return this.getAttribute("microphone") === "hold";
  }

  // Open the microphone, or close it; where its button is held, what was said is answered at its end.
  async #talk(on: boolean): Promise<void> {
    const chat = this.#chat;
    if (!chat) return;
    this.#panel.talking(on);
    if (!on) {
      if (this.#holds && this.#talks) chat.commit();
      return this.#holds ? this.#microphone.stop() : this.#deafen();
    }
    this.#hush();
    try {
      await this.#speech.enable();
      chat.open();
      chat.listen(true);
      if (!this.#talks) {
        this.#talks = true;
        this.#chat?.configure(this.#settings);
      }
      if (this.#holds) {
        chat.stop();
        chat.discard();
      }
      await this.#microphone.start(this.server, (piece) => chat.hear(piece));
      if (this.#panel.microphone.getAttribute("aria-pressed") !== "true") this.#microphone.stop(); // let go meanwhile
    } catch (error) {
      console.warn("loquent-chat: no microphone:", error);
      this.#deafen();
      this.#panel.state(this.#texts.deaf, false);
    }
  }

  // Close the microphone; replies are written again.
  #deafen(): void {
    this.#microphone.stop();
    this.#panel.talking(false);
    if (!this.#talks) return;
    this.#talks = false;
    this.#chat?.listen(false);
    this.#chat?.configure(this.#settings);
  }

  // What the page wants of the session, with what the microphone needs.
  get #settings(): Record<string, unknown> {
    if (!Microphone.able || !this.hasAttribute("microphone")) return this.#session;
    const detection = this.#talks && !this.#holds ? { type: "server_vad" } : null;
    const given = (this.#session["audio"] ?? {}) as { input?: Record<string, unknown> };
    const input = { ...given.input, transcription: { model: "whisper-1" }, turn_detection: detection };
    const modality = this.#talks ? "audio" : "text";
    return { ...this.#session, audio: { ...given, input }, output_modalities: [modality] };
  }

  // Be silent at once; the server learns how much was heard.
  #hush(): void {
    const heard = this.#speech.stop();
    if (heard) this.#chat?.heard(heard.item, heard.ms);
  }

  #tell<Name extends keyof LoquentHappenings>(name: Name, detail: LoquentHappenings[Name]): void {
    for (const listener of this.#listeners.get(name) ?? []) {
      try {
        (listener as Listener<Name>)(detail);
      } catch (error) {
        reportError(error); // a page's fault is not the chat's
      }
    }
  }
}

// Attributes of the script's own tag make the element, where a page has room for one tag only.
export function fromScript(): HTMLElement | null {
  const given = Object.entries(SCRIPT?.dataset ?? {});
  if (given.length === 0) return null;
  const element = document.createElement("loquent-chat");
  for (const [name, value] of given) {
    element.setAttribute(name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`), value ?? "");
  }
  return element;
}
