// What the script's tag loads: the element, and a global object for pages that have one chat.

import { fromScript, LoquentChat, type Happenings, type User } from "./element";

const first = (): LoquentChat => {
  const element = document.querySelector("loquent-chat");
  if (!(element instanceof LoquentChat)) throw new Error("There is no <loquent-chat> on this page.");
  return element;
};

const Loquent = {
  open: () => first().open(),
  close: () => first().close(),
  toggle: () => first().toggle(),
  send: (text: string) => first().send(text),
  stop: () => first().stop(),
  setUser: (user: User) => first().setUser(user),
  setLocale: (locale: string) => first().setLocale(locale),
  reset: () => first().reset(),
  on: <Name extends keyof Happenings>(name: Name, listener: (detail: Happenings[Name]) => void) => first().on(name, listener),
};

// A second tag of the same script changes nothing.
if (!customElements.get("loquent-chat")) {
  customElements.define("loquent-chat", LoquentChat);
  Object.assign(globalThis, { Loquent });
  const element = fromScript();
  if (element) {
    if (document.body) document.body.append(element);
    else addEventListener("DOMContentLoaded", () => document.body.append(element));
  }
}
