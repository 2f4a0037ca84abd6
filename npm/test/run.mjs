// Bundles the tests and runs them with Node's own runner. Needs what `cargo xtask build` makes.
import { spawnSync } from 'node:child_process';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

process.chdir(fileURLToPath(new URL('..', import.meta.url)));
const out = 'generated/test';
await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
const tests = (await readdir('test')).filter((name) => name.endsWith('.test.ts'));
await build({
  entryPoints: tests.map((name) => `test/${name}`),
  outdir: out,
  outExtension: { '.js': '.mjs' },
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  sourcemap: 'inline',
  packages: 'external',
  define: { BUILD: '"test"', IIFE: 'false', INLINE_WASM: 'undefined' },
  logLevel: 'warning',
});
const only = process.argv.slice(2);
const files = (await readdir(out)).filter((name) => !only.length || only.some((part) => name.includes(part)));
const { status } = spawnSync(process.execPath, ['--enable-source-maps', '--test', '--test-timeout=120000', ...files.map((f) => `${out}/${f}`)], {
  stdio: 'inherit',
});
process.exit(status ?? 1);
