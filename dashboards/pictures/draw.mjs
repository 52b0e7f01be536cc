// Draws the dashboard with what a Prometheus knows: node draw.mjs PROMETHEUS FROM TO DIRECTORY. The times are unix seconds.
import { createServer } from 'node:http';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const [prometheus, from, to, directory] = process.argv.slice(2);
const here = dirname(fileURLToPath(import.meta.url));
const page = '<!doctype html><meta charset="utf-8"><title>fsban</title><link rel="stylesheet" href="/page.css"><body style="margin:0"><div id="root"></div><script type="module" src="/page.js"></script>';

const server = createServer(async (request, response) => {
  if (request.url.startsWith('/api/')) {
    const answer = await fetch(prometheus + request.url);
    response.writeHead(answer.status, { 'Content-Type': 'application/json' }).end(await answer.text());
  } else if (request.url === '/page.js') {
    response.writeHead(200, { 'Content-Type': 'text/javascript' }).end(readFileSync(join(here, 'build/page.js')));
  } else if (request.url === '/page.css') {
    response.writeHead(200, { 'Content-Type': 'text/css' }).end(readFileSync(join(here, 'build/page.css')));
  } else if (request.url.startsWith('/?')) {
    response.writeHead(200, { 'Content-Type': 'text/html' }).end(page);
  } else {
    const icon = request.url.match(/\/img\/icons\/(\w+\/[\w-]+\.svg)/);
    const file = icon && join(here, 'node_modules/@grafana/ui/dist/public/img/icons', icon[1]);
    if (file && existsSync(file)) {
      response.writeHead(200, { 'Content-Type': 'image/svg+xml' }).end(readFileSync(file));
    } else {
      response.writeHead(404).end();
    }
  }
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const address = `http://127.0.0.1:${server.address().port}`;

const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--font-render-hinting=none'],
});
let bad = 0;
for (const [name, how] of Object.entries({
  'first-look-light': 'mode=light&rows=first', 'first-look-dark': 'mode=dark&rows=first', 'rows-1': 'mode=light&rows=upper', 'rows-2': 'mode=light&rows=lower',
  'phone-light': 'mode=light&rows=first&phone=1', 'phone-dark': 'mode=dark&rows=first&phone=1',
})) {
  const tab = await browser.newPage({ viewport: { width: how.includes('phone') ? 412 : 1600, height: 900 } });
  tab.on('pageerror', (err) => { console.error(`${name}: ${err.message}`); bad++; });
  await tab.goto(`${address}/?${how}&from=${from}&to=${to}`);
  await tab.waitForFunction(() => window.failed || window.pending === 0, undefined, { timeout: 120000 });
  const failed = await tab.evaluate(() => window.failed);
  if (failed) {
    console.error(`${name}: ${failed}`);
    bad++;
  }
  await tab.waitForTimeout(1500); // for what is drawn after the last answer
  await tab.locator('#board').screenshot({ path: join(directory, `${name}.png`) });
  await tab.close();
}
await browser.close();
server.close();
process.exit(bad ? 1 : 0);
