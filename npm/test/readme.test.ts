// The blocks that readers copy: of the READMEs and of the documents about devtools and sessions.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, it } from 'node:test';
import { Consumer } from './consumer.js';

const root = new URL('../../', import.meta.url);
const consumer = new Consumer();
before(() => {
  consumer.make();
  consumer.install('react', '@types', 'csstype', 'vue', '@vue', 'yjs', 'lib0', 'y-protocols', 'y-codemirror.next', '@codemirror', 'style-mod', 'ws');
});
after(() => consumer.remove());

/** What a page has around a block: the names that a block uses and does not make. */
const AROUND = {
  client: "import('datasole/client').DatasoleClient",
  DatasoleClient: "typeof import('datasole/client').DatasoleClient",
  DatasoleProvider: "typeof import('datasole/yjs').DatasoleProvider",
  Y: "typeof import('yjs')",
  'button, label, status, parent, root': 'HTMLElement',
  'createRoot, createApp, render, list, show, App, props': 'any',
};

/** As JavaScript is. */
const LOOSE = ['--strictNullChecks', 'false', '--noImplicitAny', 'false'];

for (const name of ['README.md', '../README.md', '../docs/devtools.md', '../docs/sessions.md']) {
  it(`the blocks of ${name} compile`, () => {
    const text = readFileSync(new URL(name, root), 'utf8');
    const blocks = [...text.matchAll(/```(ts|js|jsx)\n([^]*?)```/g)].map(([, kind, block]) => [kind!, block!] as const);
    assert.ok(blocks.length > 0);
    const files = blocks.map(([kind, block], at) => {
      // Each block is a module; what it makes is its own.
      const made = (one: string) => new RegExp(`\\b(const|class|function|import)\\b[^=;(]*\\b${one}\\b`).test(block);
      // A page of the READMEs' in JavaScript knows what its elements are.
      const elements = kind === 'js' ? { document: 'any' } : {};
      const around = Object.entries({ ...AROUND, ...elements }).flatMap(([names, type]) =>
        names.split(', ').filter((one) => !made(one)).map((one) => `declare const ${one}: ${type};`),
      );
      return [`block${at}.${kind === 'jsx' ? 'tsx' : 'ts'}`, `${block}\n${around.join('\n')}\nexport {};`] as const;
    });
    consumer.write({
      'around.d.ts': `
        declare module 'codemirror';
        interface ImportMeta { hot?: { accept(): void }; env: { DEV: boolean } }`,
    });
    const options = ['--module', 'esnext', '--moduleResolution', 'bundler', '--jsx', 'react-jsx', '--skipLibCheck', ...LOOSE];
    const all = { ...Object.fromEntries(files), 'all.ts': '/// <reference path="around.d.ts" />' };
    assert.deepEqual(consumer.complaints(all, '--lib', 'es2022,dom,dom.iterable', ...options), []);
  });
}
