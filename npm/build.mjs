// Makes npm/dist from npm/src and npm/generated (wasm-bindgen's output, made by `cargo xtask build`).
import { execFileSync } from 'node:child_process';
import { copyFile, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { minify } from 'terser';

process.chdir(fileURLToPath(new URL('.', import.meta.url)));
const { version } = JSON.parse(await readFile('package.json', 'utf8'));
// Page and worker of one version belong together: their URLs have it, so that no cache mixes them.
const [, protocol] = /PROTOCOL_VERSION = (\d+);/.exec(await readFile('src/protocol.ts', 'utf8'));
const wasm = await readFile('generated/datasole_wasm_bg.wasm');

await makeGlue();
await rm('dist', { recursive: true, force: true });
await mkdir('dist');
await copyFile('generated/datasole_wasm_bg.wasm', `dist/datasole.v${protocol}.wasm`);

const script = {
  format: 'iife',
  define: defines({ IIFE: true }),
  // In branches that only modules take.
  logOverride: { 'empty-import-meta': 'silent' },
};
const module = {
  format: 'esm',
  define: defines({ IIFE: false }),
  plugins: [siblings()],
  // For bundlers, which minify themselves and need the comments in `import()`.
  minify: false,
};
/** What every page has: constants are in their places, which the minifiers of bundlers leave where they are declared. */
const simplified = { ...module, write: false };
await Promise.all([
  bundle('iife.ts', 'datasole.iife.min.js', script),
  bundle('slim.iife.ts', 'datasole.slim.iife.min.js', script),
  bundle('worker.ts', `datasole-worker.v${protocol}.js`, script),
  bundle('stale.ts', 'datasole-worker.iife.min.js', script),
  bundle('worker.ts', 'datasole-worker.inline.iife.min.js', {
    ...script,
    define: defines({ IIFE: true, INLINE_WASM: wasm.toString('base64') }),
  }),
  bundle('client.ts', 'client.mjs', simplified),
  bundle('slim.ts', 'slim.mjs', simplified),
  bundle('worker.ts', 'worker.mjs', module),
  bundle('node.ts', 'node.mjs', module),
  bundle('probe.ts', 'datasole-probe.mjs', { format: 'esm' }),
  bundle('shared.ts', 'datasole-shared.mjs', { format: 'esm' }),
  bundle('hub.ts', `datasole-hub.v${protocol}.mjs`, { format: 'esm' }),
  bundle('devtools.ts', 'datasole-devtools.mjs', { format: 'esm' }),
  bundle('devtools.ts', 'devtools.mjs', module),
  bundle('index.ts', 'index.mjs', module),
  bundle('bundled.ts', 'bundled.mjs', module),
  bundle('client.workerd.ts', 'client.workerd.mjs', { ...module, external: ['*.wasm'] }),
  ...['live', 'ssr', 'yjs', 'vue', 'vue-yjs', 'svelte', 'solid', 'tanstack-db'].map((name) =>
    bundle(`${name}.ts`, `${name}.mjs`, { ...module, packages: 'external' }),
  ),
  // The first statement of the file, as servers want it that render components.
  ...['react', 'react-yjs'].map((name) =>
    bundle(`${name}.ts`, `${name}.mjs`, { ...module, packages: 'external', banner: { js: "'use client';" } }),
  ),
]);
await bundle('inline.ts', 'inline.mjs', {
  ...module,
  define: {
    INLINE_WORKER: JSON.stringify(await readFile(`dist/datasole-worker.v${protocol}.js`, 'utf8')),
    INLINE_WASM: JSON.stringify(wasm.toString('base64')),
  },
});
await Promise.all(['slim', 'client'].map(application));
await declarations();

/**
 * wasm-bindgen's glue keeps its instance in module variables. As a function's, every engine gets an instance of its own:
 * two clients share nothing, and one that has panicked is replaced. Its clock and its entropy are given, so that a session can be
 * done again. Of the ways in which the glue loads a wasm only the one from a compiled module is kept. Nothing is freed: a core ends with
 * its instance. Nor is there a way around an `encodeInto` that is missing.
 */
async function makeGlue() {
  const unused = [
    / {4}__destroy_into_raw\(\) \{[^]+? {4}free\(\) \{[^]+?\n {4}\}\n/,
    / +CoreFinalization\.register\(.+\n/,
    /^if \(Symbol\.dispose\) .+\n/m,
    /^const CoreFinalization = [^]+?;\n/m,
    /^if \(!\('encodeInto' in [^]+?\n\}\n/m,
    / +if \(realloc === undefined\) \{[^]+?\n {4}\}\n/,
  ];
  const source = unused.reduce((source, part) => replaceOnce(source, part, ''), await readFile('generated/datasole_wasm.js', 'utf8'));
  const { outputFiles } = await build({
    stdin: {
      contents: replaceOnce(
        source,
        /^export \{ initSync, __wbg_init as default \};$/m,
        'export async function init(module) {\n' +
          '  __wbg_finalize_init(await WebAssembly.instantiate(module, __wbg_get_imports()), module);\n' +
          '}',
      ),
    },
    bundle: true,
    write: false,
    format: 'esm',
    target: 'es2022',
  });
  const js = replaceOnce(outputFiles[0].text, /^export \{\n  Core,\n  init\n\};$/m, 'return { Core, init };');
  await writeFile('generated/glue.js', `export function createGlue({ performance, crypto } = globalThis) {\n${js}}\n`);
  await writeFile(
    'generated/glue.d.ts',
    "import type { Core } from './datasole_wasm.js';\n" +
      "export type { Core };\n" +
      'export declare function createGlue(world?: {\n' +
      '  performance: { now(): number };\n' +
      '  crypto: { getRandomValues(bytes: Uint8Array): unknown };\n' +
      '}): { Core: typeof Core; init(module: WebAssembly.Module): Promise<void> };\n',
  );
}

function replaceOnce(text, what, by) {
  if (!what.test(text)) throw new Error(`wasm-bindgen's glue has changed: it has no ${what}`);
  return text.replace(what, by);
}

async function bundle(entry, name, options) {
  const script = options.format === 'iife';
  const { write = !script } = options;
  const { outputFiles } = await build({
    entryPoints: [`src/${entry}`],
    outfile: `dist/${name}`,
    bundle: true,
    minify: true,
    target: 'es2022',
    legalComments: 'none',
    logLevel: 'warning',
    ...options,
    write,
  });
  if (write) return;
  // What pages load: a twentieth less after compression is worth a second pass.
  const compress = { passes: 3, pure_getters: true, unsafe_arrows: true };
  const readable = { compress: { ...compress, inline: 0, reduce_funcs: false, hoist_funs: true }, mangle: false, format: { beautify: true, preserve_annotations: true } };
  const { code } = await minify(outputFiles[0].text, { ecma: 2022, ...(script ? { compress } : { module: true, ...readable }) });
  await writeFile(`dist/${name}`, code);
}

/** An application's bundle of the client alone, for the size budgets: what is loaded on demand is none of it. */
async function application(entry) {
  await build({
    stdin: { contents: `import { DatasoleClient } from './dist/${entry}.mjs'; new DatasoleClient().connect();`, resolveDir: '.' },
    outfile: `generated/application.${entry}.js`,
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    external: ['./worker.mjs', './node.mjs', './datasole-*.mjs'],
  });
}

function defines({ IIFE, INLINE_WASM }) {
  return {
    BUILD: JSON.stringify(version),
    IIFE: String(IIFE),
    // Left to the application's bundler, where there is one.
    'process.env.NODE_ENV': IIFE ? '"production"' : 'process.env.NODE_ENV',
    INLINE_WASM: INLINE_WASM === undefined ? 'undefined' : JSON.stringify(INLINE_WASM),
  };
}

/** Modules of the package import each other instead of containing each other. */
function siblings() {
  return {
    name: 'siblings',
    setup({ onResolve }) {
      onResolve({ filter: /^\.\/(worker|client|node|probe|shared|hub|live|react|vue|yjs)\.js$/ }, ({ path }) => ({
        path: path.replace(/(probe|shared)\.js$/, 'datasole-$1.js').replace('hub.js', `datasole-hub.v${protocol}.js`).replace(/js$/, 'mjs'),
        external: true,
      }));
    },
  };
}

/** Of what the package shows; the worker's script shows nothing. */
async function declarations() {
  execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'], { stdio: 'inherit' });
  const names = `aliases bundled client connection contract devtools documents errors index inline live options pendings presence react react-yjs readable replicas
    rooms server slim solid ssr status svelte tanstack-db vue vue-yjs yjs`.split(/\s+/);
  const shown = names.map((name) => `${name}.d.ts`);
  const made = (await readdir('dist')).filter((name) => name.endsWith('.d.ts'));
  const hidden = [...made.filter((name) => !shown.includes(name)), 'crdt/replica.d.ts', 'crdt/json.d.ts'];
  await Promise.all(hidden.map((name) => rm(`dist/${name}`)));
  await rm('dist/devtools', { recursive: true });
  await writeFile('dist/worker.d.ts', 'export {};\n');
}
