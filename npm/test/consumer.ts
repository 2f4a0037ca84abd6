/** A project that has installed this package, as `cargo xtask build` has made it. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = new URL('../../', import.meta.url);
const modules = fileURLToPath(new URL('node_modules', root));

/** See the module. */
export class Consumer {
  #project = '';

  make(): void {
    this.#project = mkdtempSync(join(tmpdir(), 'datasole-'));
    const installed = join(this.#project, 'node_modules/datasole');
    mkdirSync(installed, { recursive: true });
    for (const name of ['dist', 'package.json']) cpSync(new URL(name, root), join(installed, name), { recursive: true });
  }

  remove(): void {
    rmSync(this.#project, { recursive: true });
  }

  /** Installs packages that the tests have. */
  install(...names: string[]): void {
    for (const name of names) symlinkSync(join(modules, name), join(this.#project, 'node_modules', name));
  }

  write(files: Record<string, string>): void {
    for (const [name, text] of Object.entries(files)) writeFileSync(join(this.#project, name), text);
  }

  /** The compiler's complaints about a program of these files. */
  complaints(files: Record<string, string>, ...options: string[]): string[] {
    this.write(files);
    const tsc = join(modules, 'typescript/bin/tsc');
    const args = [tsc, '--noEmit', '--strict', '--target', 'es2022', '--types', '', ...options, ...Object.keys(files)];
    const { status, stdout } = spawnSync(process.execPath, args, { cwd: this.#project, encoding: 'utf8' });
    const lines = stdout.split('\n').filter(Boolean);
    assert.equal(status === 0, !lines.length, stdout);
    return lines;
  }
}
