// Makes generated/board.js: the script of the demo's board with all it needs, for the program `datasole` to embed. No part of the
// package.
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const absWorkingDir = fileURLToPath(new URL('.', import.meta.url));
const { metafile } = await build({
  absWorkingDir,
  entryPoints: ['../cli/demo/board.js'],
  outfile: 'generated/board.js',
  bundle: true,
  minify: true,
  format: 'iife',
  target: 'es2022',
  legalComments: 'none',
  logLevel: 'warning',
  metafile: true,
  alias: { 'datasole/client': './src/client.ts', 'datasole/yjs': './src/yjs.ts' },
  nodePaths: [`${absWorkingDir}node_modules`],
  // A script: its worker is the one that the server serves.
  define: { IIFE: 'true', BUILD: '"demo"', INLINE_WASM: 'undefined' },
  logOverride: { 'empty-import-meta': 'silent' },
});

// Two of them do not know each other's documents.
const yjs = Object.keys(metafile.inputs).filter((path) => /node_modules\/yjs\//.test(path));
if (yjs.length !== 1) throw new Error(`the board needs one copy of yjs, not ${yjs.length}: ${yjs.join(', ')}`);
