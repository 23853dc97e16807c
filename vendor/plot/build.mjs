// Bundles the chart library for the pages: the script, the licences of every package in it, and what
// it was made from. Same lock file, same bytes.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

const out = join(import.meta.dirname, "../../include/nightbid/report/assets");
const modules = "node_modules/";

const { metafile, outputFiles } = await build({
  absWorkingDir: import.meta.dirname,
  entryPoints: ["plot.mjs"],
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "Plot",
  target: "es2020",
  metafile: true,
  write: false,
});

const [{ inputs }] = Object.values(metafile.outputs);
const names = Object.keys(inputs)
  .filter((path) => path.startsWith(modules) && inputs[path].bytesInOutput)
  .map((path) => path.slice(modules.length).match(/^(@[^/]+\/)?[^/]+/)[0]);
const packages = [...new Set(names)].sort().map((name) => {
  const folder = join(import.meta.dirname, modules, name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((each) => /^licen[sc]e/i.test(each));
  const text = file ? readFileSync(join(folder, file), "utf8").trim() : `License: ${license}`;
  return { name, version, license, text };
});

const script = outputFiles[0].contents;
const made = {
  file: "plot.min.js",
  sha256: createHash("sha256").update(script).digest("hex"),
  packages: packages.map(({ name, version, license }) => ({ name, version, license })),
};
writeFileSync(join(out, "plot.min.js"), script);
writeFileSync(join(out, "plot.json"), `${JSON.stringify(made, null, 2)}\n`);
writeFileSync(
  join(out, "plot.licenses.txt"),
  packages.map(({ name, version, text }) => `${name} ${version}\n\n${text}\n`).join(`\n${"-".repeat(80)}\n\n`),
);
console.log(`plot.min.js: ${script.length} bytes, sha256 ${made.sha256}`);
for (const { name, version, license } of packages) console.log(`  ${name} ${version} (${license})`);
