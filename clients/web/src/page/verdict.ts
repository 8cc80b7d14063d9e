// What the screening thought of a message, and why.

import { h } from "../render/dom";

interface Verdict {
  action?: string;
  causes?: string[];
  p_value?: number;
  findings?: { check?: string; detail?: string }[];
}

interface Screening {
  action?: string;
  verdicts?: Verdict[];
}

export function showVerdict(card: HTMLElement, root: HTMLElement, given: unknown): void {
  card.hidden = !given;
  if (!given) return;
  const screening = given as Screening;
  const rows = (screening.verdicts ?? []).flatMap((verdict) => [
    ["p-value", verdict.p_value?.toPrecision(2) ?? "–"],
    ["causes", verdict.causes?.join(", ") || "none"],
    ...(verdict.findings ?? []).map((each) => [each.check ?? "finding", each.detail ?? ""]),
  ]);
  const table = h(
    "table",
    {},
    ...[["action", screening.action ?? "–"], ...rows].map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name!), h("td", {}, value!))),
  );
  root.replaceChildren(table, h("pre", { tabindex: "0" }, JSON.stringify(given, null, 1)));
}
