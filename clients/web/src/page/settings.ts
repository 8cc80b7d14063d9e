// The switches of the first page, and the session's settings that they mean.

import { h } from "../render/dom";

export type Settings = Record<string, unknown>;

const STORED = "loquent-page"; // where they are remembered

interface Field {
  name: string;
  label: string;
  element: HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement;
  wide?: boolean;
}

export class SettingsForm {
  #fields: Field[];

  // `changed` is called with what a user has chosen.
  constructor(form: HTMLFormElement, changed: (settings: Settings) => void) {
    const number = (least: string, most: string, step: string, placeholder: string): HTMLInputElement =>
      h("input", { type: "number", min: least, max: most, step, placeholder });
    const select = (...options: [string, string][]): HTMLSelectElement =>
      h("select", {}, ...options.map(([value, text]) => h("option", { value }, text)));
    this.#fields = [
      { name: "pictures", label: "Pictures", element: select(["", "when asked for"], ["true", "with each reply"], ["false", "never"]) },
      { name: "microphone", label: "Microphone", element: select(["open", "open"], ["hold", "while held"]) },
      { name: "verdicts", label: "Show the screening's verdict", element: h("input", { type: "checkbox" }) },
      { name: "temperature", label: "Temperature", element: number("0", "2", "0.1", "the model's") },
      { name: "top_p", label: "Top p", element: number("0", "1", "0.05", "the model's") },
      { name: "max_output_tokens", label: "Most tokens", element: number("1", "4096", "1", "512") },
      { name: "seed", label: "Seed", element: number("0", "2147483647", "1", "random") },
      { name: "instructions", label: "Instructions", element: h("textarea", { rows: "2" }), wide: true },
    ];
    this.#load();
    form.append(
      ...this.#fields.map(({ label, element, wide }) =>
        element.getAttribute("type") === "checkbox" ? h("label", {}, element, label) : h("label", { class: wide ? "wide" : null }, label, element),
      ),
    );
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => {
      if (!form.reportValidity()) return;
      this.#save();
      changed(this.settings);
    });
  }

  get microphone(): string {
    return this.#value("microphone");
  }

  get settings(): Settings {
    const numbers = (...names: string[]): [string, number][] =>
      names.filter((name) => this.#value(name) !== "").map((name) => [name, Number(this.#value(name))]);
    const pictures = this.#value("pictures");
    return {
      instructions: this.#value("instructions"),
      ...Object.fromEntries(numbers("max_output_tokens")),
      loquent: {
        sampling: Object.fromEntries(numbers("temperature", "top_p", "seed")),
        ...(this.#value("verdicts") ? { verdicts: true } : {}),
        ...(pictures ? { image: pictures === "true" } : {}),
      },
    };
  }

  #value(name: string): string {
    const { element } = this.#fields.find((each) => each.name === name)!;
    if (element instanceof HTMLInputElement && element.type === "checkbox") return element.checked ? "true" : "";
    return element.value.trim();
  }

  #load(): void {
    let stored: Record<string, string> = {};
    try {
      stored = JSON.parse(sessionStorage.getItem(STORED) ?? "{}");
    } catch {
      return;
    }
    for (const { name, element } of this.#fields) {
      if (typeof stored[name] !== "string") continue;
      if (element instanceof HTMLInputElement && element.type === "checkbox") element.checked = stored[name] === "true";
      else element.value = stored[name];
    }
  }

  #save(): void {
    try {
      sessionStorage.setItem(STORED, JSON.stringify(Object.fromEntries(this.#fields.map(({ name }) => [name, this.#value(name)]))));
    } catch {
      // They are forgotten with the page.
    }
  }
}
