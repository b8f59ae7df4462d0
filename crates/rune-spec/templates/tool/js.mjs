// One JSON object on standard input, one JSON value on standard output; standard error is for diagnostics.
import { readFileSync } from "node:fs";

const { text } = JSON.parse(readFileSync(0, "utf8"));
// A tool that fails writes why to standard error and ends with an exit code that is not 0.
process.stdout.write(JSON.stringify({ text }));
