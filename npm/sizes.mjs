// Writes docs/sizes.md: what a page loads of this package, and of other clients for realtime traffic, each bundled alone.
// Argument: a folder in which the others are installed.
import { execFileSync } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { brotliCompressSync, gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const npm = fileURLToPath(new URL('.', import.meta.url));
const others = resolve(process.argv[2]);

/** The least that connects, in each. */
const OTHERS = [
  ['socket.io-client', '4.8.4', "import { io } from 'socket.io-client'; io();", 'WebSocket and polling, events, acknowledgements'],
  ['centrifuge', '5.8.0', "import { Centrifuge } from 'centrifuge'; new Centrifuge('wss://a').connect();", 'JSON; channels, history, presence, RPC'],
  ['convex', '1.49.0', "import { ConvexClient } from 'convex/browser'; new ConvexClient('https://a.convex.cloud');", 'live queries, mutations'],
  [
    '@supabase/realtime-js',
    '2.119.1',
    "import { RealtimeClient } from '@supabase/realtime-js'; new RealtimeClient('wss://a', { params: { apikey: 'a' } }).connect();",
    'channels, presence, database changes',
  ],
  ['ably', '2.28.0', "import { Realtime } from 'ably'; new Realtime('key');", 'channels, history, presence'],
];
const OURS = [
  ['datasole/slim', "import { DatasoleClient } from './dist/slim.mjs'; new DatasoleClient().connect();", 'calls, events, live states, presence'],
  ['datasole/client', "import { DatasoleClient } from './dist/client.mjs'; new DatasoleClient().connect();", 'the same and CRDTs'],
];

await mkdir(others, { recursive: true });
const dependencies = Object.fromEntries(OTHERS.map(([name, version]) => [name, version]));
await writeFile(join(others, 'package.json'), JSON.stringify({ private: true, dependencies }));
const quietly = ['--no-package-lock', '--no-audit', '--no-fund', '--ignore-scripts', '--loglevel=error'];
execFileSync('npm', ['install', '--prefer-offline', ...quietly], { cwd: others, stdio: ['ignore', 2, 2] });

const { version, exports } = JSON.parse(await readFile(join(npm, 'package.json'), 'utf8'));
const clients = [];
for (const [name, code, what] of OURS) {
  clients.push([`\`${name}\` ${version}`, ...(await size(npm, code)), what]);
}
for (const [name, version, code, what] of OTHERS) clients.push([`\`${name}\` ${version}`, ...(await size(others, code)), what]);

const worker = await Promise.all(
  Object.keys(exports)
    .filter((name) => /^\.\/datasole(-worker)?\.v\d+\.(js|wasm)$/.test(name))
    .map((name) => readFile(join(npm, 'dist', name))),
);
const sum = (compress) => worker.reduce((sum, content) => sum + compress(content).length, 0);
const background = { brotli: sum(brotliCompressSync), gzip: sum((content) => gzipSync(content, { level: 9 })) };

/** Every other entry by itself: without what it shares with the client, and without its peers. */
const entries = [];
for (const [name, entry] of Object.entries(exports)) {
  if (!entry.default || !/\.mjs$/.test(entry.default) || ['.', './client', './slim', './client/worker'].includes(name)) continue;
  entries.push([`\`datasole${name.slice(1)}\``, ...(await size(npm, `export * from '${entry.default}';`, true))]);
}

const bytes = (number) => number.toLocaleString('en');
const row = (cells) => `| ${cells.map((cell) => (typeof cell === 'number' ? bytes(cell) : cell)).join(' | ')} |`;
const table = (head, rows) => [row(head), `|${head.map((_, column) => (column === 0 || column > 2 ? '---' : '--:')).join('|')}|`, ...rows.map(row)].join('\n');
const text = `# Sizes

Made by \`cargo xtask sizes\`: the least code that connects, bundled by esbuild for a page (minified, ES2022), in bytes. Modules that are
loaded on demand are not counted.

${table(['client', 'minified', 'gzip', 'has'], clients)}

A datasole client has its protocol, inflate and timers in a worker, which loads beside the page: worker and wasm are ${bytes(background.brotli)} bytes in
brotli (${bytes(background.gzip)} gzip), come from the datasole server, and cost the page's own thread nothing. The other clients run on that thread.

The other entries, without what they share with the client and without their peers:

${table(['entry', 'minified', 'gzip'], entries)}
`;
await writeFile(join(npm, '../docs/sizes.md'), text);
console.log(text);

/** Bytes of a bundle: minified, and in gzip. */
async function size(resolveDir, contents, alone = false) {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir },
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    platform: 'browser',
    packages: alone ? 'external' : undefined,
    plugins: [elsewhere(alone)],
    write: false,
    logLevel: 'error',
  });
  const [{ contents: bundle }] = outputFiles;
  return [bundle.length, gzipSync(bundle, { level: 9 }).length];
}

/** Modules are not counted that are loaded on demand, nor those of the package that an entry shares, if it is measured `alone`. */
function elsewhere(alone) {
  const shared = ({ importer }) => alone && dirname(importer) === join(npm, 'dist');
  return {
    name: 'elsewhere',
    setup: ({ onResolve }) =>
      onResolve({ filter: /^\.\// }, (module) => (module.kind === 'dynamic-import' || shared(module) ? { path: module.path, external: true } : undefined)),
  };
}
