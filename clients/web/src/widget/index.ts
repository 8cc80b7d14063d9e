// What the script's tag loads: the element, and a global object for pages that have one chat.

import type { LoquentApi, LoquentChatElement } from "../../widget";
import { fromScript, LoquentChat } from "./element";

const first = (): LoquentChat => {
  const element = document.querySelector("loquent-chat");
  if (!(element instanceof LoquentChat)) throw new Error("There is no <loquent-chat> on this page.");
  return element;
};

const Loquent: LoquentApi = {
  open: () => first().open(),
  close: () => first().close(),
  toggle: () => first().toggle(),
  send: (text) => first().send(text),
  stop: () => first().stop(),
  setUser: (user) => first().setUser(user),
  setLocale: (locale) => first().setLocale(locale),
  setQuickReplies: (texts) => first().setQuickReplies(texts),
  reset: () => first().reset(),
  on: (name, listener) => first().on(name, listener),
};

// A second tag of the same script changes nothing.
if (!customElements.get("loquent-chat")) {
  customElements.define("loquent-chat", LoquentChat satisfies new () => LoquentChatElement);
  Object.assign(globalThis, { Loquent });
  const element = fromScript();
  if (element) {
    if (document.body) document.body.append(element);
    else addEventListener("DOMContentLoaded", () => document.body.append(element));
  }
}
