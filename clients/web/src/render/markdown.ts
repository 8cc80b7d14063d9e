// Markdown as DOM nodes, made one by one: nothing of a text is ever parsed as HTML. A text that grows is rendered again
// block by block, and only the blocks that changed become new nodes.

import { Lexer, type MarkedToken, type Token, type Tokens } from "marked";

import { linkOf, pictureOf } from "./addresses";
import { copyText } from "./clipboard";
import { h } from "./dom";
import { decode } from "./entities";
import { clean } from "./text";

const MOST_CHARACTERS = 100_000; // more is shown as it is
const MOST_CELLS = 2000; // of a table
const MOST_DEPTH = 12; // of lists and quotations

export interface Labels {
  copy: string;
  copied: string;
  picture: string;
}

interface Block {
  raw: string;
  node: Node;
}

export class Markdown {
  #root: HTMLElement;
  #server: string;
  #labels: () => Labels;
  #blocks: Block[] = [];

  constructor(root: HTMLElement, server: string, labels: () => Labels) {
    this.#root = root;
    this.#server = server;
    this.#labels = labels;
  }

  // Show this text in place of the one before.
  show(text: string): void {
    const tokens = lex(clean(text)).filter((token) => token.type !== "space" && token.type !== "def");
    let same = 0;
    while (same < tokens.length && this.#blocks[same]?.raw === tokens[same]!.raw) same++;
    for (const { node } of this.#blocks.splice(same)) this.#root.removeChild(node);
    for (const token of tokens.slice(same)) {
      const node = this.#block(token as MarkedToken, 0);
      this.#blocks.push({ raw: token.raw, node });
      this.#root.append(node);
    }
  }

  #block(token: MarkedToken, depth: number): Node {
    if (depth > MOST_DEPTH) return h("p", {}, token.raw);
    switch (token.type) {
      case "heading":
        // Headings of a reply are none of the page's, whose outline they would break.
        return h("p", { class: `heading h${token.depth}` }, ...this.#inline(token.tokens));
      case "paragraph":
        return h("p", {}, ...this.#inline(token.tokens));
      case "text":
        return h("span", {}, ...this.#inline(token.tokens ?? [token]));
      case "blockquote":
        return h("blockquote", {}, ...this.#within(token.tokens, depth));
      case "list":
        return this.#list(token, depth);
      case "code":
        return this.#code(token);
      case "table":
        return this.#table(token);
      case "hr":
        return h("hr");
      default:
        return h("p", {}, token.raw);
    }
  }

  #within(tokens: Token[], depth: number): Node[] {
    return tokens.filter((each) => each.type !== "space").map((each) => this.#block(each as MarkedToken, depth + 1));
  }

  #list(token: Tokens.List, depth: number): Node {
    const items = token.items.map((item) => {
      const box = item.task ? [item.checked ? "☑ " : "☐ "] : [];
      return h("li", {}, ...box, ...this.#within(item.tokens.filter((each) => each.type !== "checkbox"), depth));
    });
    if (!token.ordered) return h("ul", {}, ...items);
    return h("ol", { start: token.start === 1 ? null : String(token.start) }, ...items);
  }

  #code(token: Tokens.Code): Node {
    const code = h("code", {}, token.text);
    const labels = this.#labels();
    const button = h("button", { type: "button", class: "copy-code", part: "copy-code" }, labels.copy);
    button.addEventListener("click", () => {
      void copyText(token.text, button).then((copied) => {
        if (!copied) return;
        button.textContent = labels.copied;
        setTimeout(() => (button.textContent = labels.copy), 1500);
      });
    });
    const language = (token.lang ?? "").split(/\s/)[0]!.slice(0, 30);
    // Long lines scroll, which a keyboard must be able to do too.
    const pre = h("pre", { tabindex: "0", role: "group", dir: "ltr", "aria-label": language || "code" }, code);
    return h("div", { class: "code" }, h("div", { class: "code-head" }, h("span", {}, language), button), pre);
  }

  #table(token: Tokens.Table): Node {
    if ((token.rows.length + 1) * token.header.length > MOST_CELLS) return h("pre", { tabindex: "0" }, token.raw);
    const cell = (name: "th" | "td", each: Tokens.TableCell): Node =>
      h(name, { class: each.align ? `align-${each.align}` : null }, ...this.#inline(each.tokens));
    const head = h("thead", {}, h("tr", {}, ...token.header.map((each) => cell("th", each))));
    const rows = token.rows.map((row) => h("tr", {}, ...row.map((each) => cell("td", each))));
    const table = h("table", {}, head, h("tbody", {}, ...rows));
    return h("div", { class: "table", tabindex: "0", role: "group" }, table);
  }

  #inline(tokens: Token[]): (Node | string)[] {
    return tokens.map((token) => this.#piece(token as MarkedToken));
  }

  #piece(token: MarkedToken): Node | string {
    switch (token.type) {
      case "strong":
        return h("strong", {}, ...this.#inline(token.tokens));
      case "em":
        return h("em", {}, ...this.#inline(token.tokens));
      case "del":
        return h("del", {}, ...this.#inline(token.tokens));
      case "codespan":
        return h("code", { dir: "ltr" }, token.text);
      case "br":
        return h("br");
      case "link":
        return this.#link(token);
      case "image":
        return this.#picture(token);
      case "escape":
        return token.text;
      case "text":
        return token.tokens ? h("span", {}, ...this.#inline(token.tokens)) : decode(token.text);
      default:
        return token.raw;
    }
  }

  #link(token: Tokens.Link): Node {
    const href = linkOf(decode(token.href));
    const inner = this.#inline(token.tokens);
    if (href === null) return h("span", {}, ...inner);
    // The whole address, because a text may name another one than it leads to.
    return h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow", title: href }, ...inner);
  }

  #picture(token: Tokens.Image): Node {
    const src = pictureOf(decode(token.href), this.#server);
    const about = decode(token.text) || this.#labels().picture;
    if (src === null) return h("span", {}, about);
    return h("img", { src, alt: about, loading: "lazy", decoding: "async", part: "picture" });
  }
}

function lex(text: string): Token[] {
  if (text.length <= MOST_CHARACTERS) {
    try {
      return new Lexer({ gfm: true, breaks: true }).lex(text);
    } catch {
      // Nested too deeply for the lexer's stack.
    }
  }
  return [{ type: "code", raw: text, text } as Tokens.Code];
}
