#!/usr/bin/env node
// The program `datasole`, which comes in a package of its own for each platform.
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { constants } from 'node:os';

const { platform, arch, argv } = process;
const libc = { linux: () => (process.report.getReport().header.glibcVersionRuntime ? '-gnu' : '-musl'), win32: () => '-msvc' };
const name = `@datasole/cli-${platform}-${arch}${libc[platform]?.() ?? ''}`;

const require = createRequire(import.meta.url);
let program;
try {
  program = require.resolve(`${name}/bin/datasole${platform === 'win32' ? '.exe' : ''}`);
} catch {
  const { optionalDependencies: packed = {}, version } = require('../package.json');
  const help = name in packed ? `it is missing: npm install --save-dev ${name}@${version}` : 'there is none for this platform: build it, it is written in Rust';
  console.error(`datasole: the program is in ${name}; ${help}`);
  process.exit(1);
}

const child = spawn(program, argv.slice(2), { stdio: 'inherit' });
// The program decides when it ends.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
child.on('error', ({ message }) => {
  console.error(`datasole: ${name} cannot be started: ${message}`);
  process.exit(1);
});
child.on('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal]));
