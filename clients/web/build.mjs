// Writes built/: what the server serves, and what the package carries. `--check` says whether it is up to date.

import { readFile, writeFile, mkdir } from "node:fs/promises";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const MOST = 45 * 1024; // bytes of widget.js, compressed
const OUTPUTS = {
  "src/widget/index.ts": "built/widget.js",
  "src/widget/recorder.ts": "built/recorder.js",
  "src/page/index.ts": "built/page.js",
};

const licence = (await readFile("node_modules/marked/LICENSE", "utf8")).trim();
const banner = `/*! Loquent's chat widget, Apache-2.0. It contains marked:\n\n${licence.replaceAll("*/", "* /")}\n*/`;

let wrong = false;
for (const [source, target] of Object.entries(OUTPUTS)) {
  const { outputFiles } = await build({
    entryPoints: [source],
    bundle: true,
    minify: true,
    format: "iife",
    target: ["es2022"],
    charset: "utf8",
    loader: { ".css": "text" },
    legalComments: "none",
    banner: { js: target.includes("widget") ? banner : "" },
    write: false,
  });
  const text = outputFiles[0].text;
  const size = gzipSync(text, { level: 9 }).length;
  console.log(`${target}: ${text.length} bytes, ${size} compressed`);
  if (size > MOST) {
    console.error(`${target} has more than ${MOST} bytes, compressed.`);
    wrong = true;
  }
  if (process.argv.includes("--check")) {
    if (text !== (await readFile(target, "utf8").catch(() => ""))) {
      console.error(`${target} is not what its sources give: npm run build`);
      wrong = true;
    }
  } else {
    await mkdir("built", { recursive: true });
    await writeFile(target, text);
  }
}
process.exit(wrong ? 1 : 0);
