// Puts a text into the clipboard, on pages that came by plain http too.

import { h } from "./dom";

// Whether it was; `near` is an element of the tree in which the text stands.
export async function copyText(text: string, near: Element): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // The old way, by what is selected.
    const found = near.getRootNode();
    const root = found instanceof ShadowRoot ? found : document;
    const area = h("textarea", { "aria-hidden": "true", tabindex: "-1" });
    Object.assign(area.style, { position: "fixed", opacity: "0" });
    area.value = text;
    (root === document ? document.body : root).append(area);
    const before = root.activeElement;
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    if (before instanceof HTMLElement) before.focus();
    return copied;
  }
}
