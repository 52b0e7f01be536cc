// Checks the dashboard and the page against Grafana's types, and makes the page one file.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { build } from 'esbuild';

await import('./typed.mjs');
execFileSync('node_modules/.bin/tsc', { stdio: 'inherit' });
const out = 'build/page.js';
await build({
  entryPoints: ['page.tsx'], bundle: true, format: 'esm', outfile: out, logLevel: 'error',
  define: { 'process.env.NODE_ENV': JSON.stringify(process.env.NODE_ENV ?? 'production') },
  loader: { '.svg': 'dataurl', '.woff2': 'dataurl', '.ttf': 'dataurl' },
});
// Grafana's files are .mjs, for which esbuild takes the whole of a CommonJS module for its default, as Node.js does. They
// were written for the default that such a module names itself.
writeFileSync(out, readFileSync(out, 'utf8').replace(/(__toESM\(require_\w+\(\)), 1\)/g, '$1)'));
