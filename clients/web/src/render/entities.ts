// The character references that a text may have. A browser's parser knows more, and is not asked.

const NAMED: Record<string, string> = {
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", copy: "©", reg: "®", trade: "™", hellip: "…",
  mdash: "—", ndash: "–", lsquo: "‘", rsquo: "’", ldquo: "“", rdquo: "”", laquo: "«", raquo: "»", bull: "•",
  middot: "·", times: "×", deg: "°", euro: "€", pound: "£", yen: "¥", cent: "¢", sect: "§", rarr: "→", larr: "←",
};

export function decode(text: string): string {
  if (!text.includes("&")) return text;
  return text.replace(/&(?:#(\d{1,7})|#x([\da-f]{1,6})|(\w{2,8}));/gi, (whole, decimal, hex, name) => {
    if (name) return NAMED[name] ?? whole;
    const point = decimal ? Number(decimal) : parseInt(hex, 16);
    const wrong = point === 0 || point > 0x10ffff || (point >= 0xd800 && point < 0xe000);
    return wrong ? "\ufffd" : String.fromCodePoint(point);
  });
}
