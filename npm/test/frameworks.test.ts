// The entries for frameworks, as they are published: what `cargo xtask build` has put into dist.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { Consumer } from './consumer.js';

const root = new URL('../../', import.meta.url);

/** A project that has installed this package and frameworks. */
const consumer = new Consumer();
before(() => {
  consumer.make();
  consumer.install('@types', 'csstype', 'react', 'react-dom', 'vue', '@vue', 'svelte', 'solid-js', '@tanstack', 'yjs', 'y-protocols', 'lib0');
});
after(() => consumer.remove());

/** Runs a module in a Node of its own, where `datasole` is this package. */
function run(code: string): string {
  return execFileSync(process.execPath, ['--input-type=module', '-e', code], { cwd: root, encoding: 'utf8' }).trim();
}

describe('hooks and composables have the types of the contract', () => {
  const imports = [
    `import * as R from 'datasole/react';`,
    `import * as V from 'datasole/vue';`,
    `import { fetchState } from 'datasole/ssr';`,
    `import { useDocument } from 'datasole/react/yjs';`,
    `import * as L from 'datasole/live';`,
    `import { liveState } from 'datasole/svelte';`,
    `import { createLiveState } from 'datasole/solid';`,
    `import { datasoleCollection } from 'datasole/tanstack-db';`,
    `import { DatasoleClient } from 'datasole/client';`,
    `import { ref } from 'vue';`,
    `import './contract.mjs';`,
    `interface Other { rpc: { other: { params: number; result: string } }; events: { e: 1 }; state: { k: { n: number } } }`,
    `const other = R.createHooks<Other>(); const otherV = V.createComposables<Other>(); const client = new DatasoleClient();`,
  ];
  /** The same in both, but for refs. */
  const [right, wrong] = [
    [
      `{ const board = R.useLiveState('dashboard'); if (board.status === 'ready') board.data.title.length; }`,
      `R.useLiveState('dashboard', ({ title }) => title.length).data?.toFixed();`,
      `R.useLiveState('board:red:7', undefined, { initial: { value: { title: '', rows: {} }, epoch: 1, seq: 2 } }).data?.rows;`,
      `R.useLiveState(Math.random() > 1 ? 'dashboard' : null, (board) => [board.title], { equals: (a, b) => a[0] === b[0] }).data?.[0]?.length;`,
      `R.useSuspenseLiveState('dashboard')?.title.length; R.useSuspenseLiveState('dashboard', ({ rows }) => rows)?.[1]?.length;`,
      `R.useEvent('alert', ({ data, timestamp }) => data.level[1].length + timestamp, { onMissed: () => {} }); R.useEvent(null, () => {});`,
      `R.useRpc('user.get')({ id: 1 }, { timeout: 5 }).then((user) => user.displayName.length);`,
      `{ const vote = R.useMutation('vote', { onSuccess: (_, { option }) => option.toFixed() }); vote.run({ option: 1 }) satisfies Promise<void>; vote.error?.code.toFixed(); }`,
      `R.useMutation('user.get').error?.data?.id.toFixed();`,
      `R.useMembers('lobby').map(({ value, id }) => value.x + id.length); R.useMembers('lobby', (others) => others.length).toFixed();`,
      `{ const [me, update] = R.useMyPresence('lobby', { x: 1, y: 2 }); update({ y: me.x }); }`,
      `{ const { value, crdt, pending } = R.useCrdt('likes', 'pn-counter'); crdt.decrement(value + pending); }`,
      `R.useCrdt('todo:a', 'or-set').value.map((cell) => cell.length);`,
      `R.useConnection({ lostAfter: 1 }).lost satisfies boolean; R.usePending().total.toFixed(); R.useUnloadGuard();`,
      `other.useLiveState('k').data?.n.toFixed(); other.useRpc('other')(1).then((text) => text.length);`,
      `R.DatasoleProvider({ options: { url: '/' } }); other.DatasoleProvider({ client: R.useClient() });`,
      `useDocument('notes:a').provider?.awareness;`,
      `V.useLiveState('dashboard').data.value?.title.length; V.useLiveState(() => 'board:a:1' as const).stale.value satisfies boolean;`,
      `V.useLiveState(ref<'dashboard' | null>(null), ({ title }) => title.length).data.value?.toFixed();`,
      `V.useEvent('chat:message', ({ data }) => data.text.length); V.useEvent(ref(null), () => {});`,
      `V.useRpc('vote')({ option: 1 }) satisfies Promise<void>; V.useMutation('user.get').error.value?.data?.id.toFixed();`,
      `V.useMembers('lobby').value.map(({ value }) => value.y); V.useMyPresence('lobby', { x: 1, y: 2 }).update({ x: 3 });`,
      `V.useCrdt('likes', 'pn-counter').value.value.toFixed(); V.useCrdt('todo:a', 'or-set').crdt.add('cell');`,
      `V.useConnection().lost.value satisfies boolean; V.usePending().value.docs.toFixed();`,
      `otherV.useLiveState('k').data.value?.n.toFixed(); V.datasole(V.useClient());`,
      `fetchState('http://a', 'dashboard', { token: 't' }).then((state) => state?.value.title.length);`,
      `L.members(client.presence('lobby')).getSnapshot()[0]?.value.x.toFixed(); L.me(client.presence('lobby')).update({ x: 1 });`,
      `L.replica(client, 'likes', 'pn-counter').getSnapshot().value.toFixed(); L.pendings(client).getSnapshot().docs.toFixed();`,
      `L.seed(client, 'dashboard', { value: { title: '', rows: {} }, epoch: 1, seq: 2 });`,
      `liveState(client, 'dashboard').current.data?.title.length; liveState(client, 'board:a:1', ({ rows }) => rows).current.data?.[1];`,
      `createLiveState(client, 'dashboard', ({ title }) => title.length)().data?.toFixed();`,
      `datasoleCollection<{ id: string }, string>({ client, key: 'todos', getKey: ({ id }) => id }).sync.sync;`,
    ],
    [
      `R.useLiveState('dashboards');`,
      `R.useLiveState('dashboard').data.title;`,
      `R.useLiveState('dashboard', ({ name }) => name);`,
      `R.useLiveState('dashboard', undefined, { initial: { value: 1, epoch: 1, seq: 2 } });`,
      `R.useSuspenseLiveState(null);`,
      `R.useEvent('typing', () => {});`,
      `R.useEvent('alert', ({ data }) => data.text);`,
      `R.useRpc('user.get')();`,
      `R.useRpc('user.got');`,
      `R.useMutation('vote').run({ option: '1' });`,
      `R.useMutation('user.get').data?.name;`,
      `R.useMembers('hall');`,
      `R.useMyPresence('lobby', { x: 1 });`,
      `R.useCrdt('likes', 'or-set');`,
      `R.useCrdt('nothing', 'pn-counter');`,
      `R.useCrdt('todo:a', 'or-set').crdt.add(1);`,
      `other.useLiveState('dashboard');`,
      `R.DatasoleProvider({});`,
      `V.useLiveState('dashboards');`,
      `V.useLiveState('dashboard').data.value.title;`,
      `V.useEvent('typing', () => {});`,
      `V.useRpc('vote')();`,
      `V.useMembers('hall');`,
      `V.useCrdt('likes', 'or-set');`,
      `fetchState('http://a', 'dashboards');`,
      `L.me(client.presence('lobby')).update({ z: 1 });`,
      `L.seed(client, 'dashboard', { value: 1, epoch: 1, seq: 2 });`,
      `liveState(client, 'dashboards');`,
      `createLiveState(client, 'dashboard', ({ name }) => name);`,
      `datasoleCollection<{ id: string }, string>({ client, key: 'todos', getKey: ({ id }) => 1 });`,
    ],
  ];
  it(`compiles ${right!.length} right lines, and refuses ${wrong!.length} wrong ones`, () => {
    consumer.write({ 'contract.mts': readFileSync(new URL('../contract/tests/contract.ts', root), 'utf8') });
    const program = (lines: string[]) => [...imports, ...lines].join('\n');
    const files = { 'right.mts': program(right!), 'wrong.mts': program(wrong!) };
    const all = consumer.complaints(files, '--lib', 'es2022,dom', '--module', 'nodenext');
    const of = (name: RegExp) => all.filter((line) => name.test(line));
    assert.deepEqual(of(/^(right|node_modules\/datasole)/), []);
    const at = new Set(of(/^wrong/).map((line) => Number(/\((\d+),/.exec(line)![1])));
    assert.deepEqual(wrong!.filter((_, index) => !at.has(index + imports.length + 1)), []);
  });
});

it('a field that is renamed in Rust is an error in React and in Vue', () => {
  const pages = new URL('../examples/pages/', root);
  const compile = (contract: URL) => {
    const names = ['board.react.tsx', 'board.vue.ts'];
    const files = Object.fromEntries(names.map((name) => [name, readFileSync(new URL(name, pages), 'utf8')]));
    consumer.write({ 'contract.ts': readFileSync(contract, 'utf8') });
    const options = ['--module', 'esnext', '--moduleResolution', 'bundler', '--jsx', 'react-jsx', '--skipLibCheck'];
    return consumer.complaints(files, '--lib', 'es2022,dom', ...options);
  };
  assert.deepEqual(compile(new URL('contract.ts', pages)), []);
  const found = compile(new URL('../contract/tests/renamed.ts', root));
  assert.deepEqual(found.map((line) => /^(board\.\w+).*TS\d+: (.*?)\.?$/.exec(line)?.slice(1)), [
    ['board.react', "Property 'title' does not exist on type 'Board'"],
    ['board.vue', "Property 'title' does not exist on type 'Board'"],
  ]);
});

it('the blocks of docs/frameworks.md compile', () => {
  const text = readFileSync(new URL('../docs/frameworks.md', root), 'utf8');
  const scripts = [...text.matchAll(/```(ts|tsx|vue|svelte)\n([^]*?)```/g)].map(([, kind, block], at) => {
    // Of components of one file, the script; templates have compilers of their own.
    const script = /<script[^>]*>([^]*?)<\/script>/.exec(block!)?.[1] ?? block!;
    return [`block${at}.${kind === 'tsx' ? 'tsx' : 'ts'}`, `${script}\nexport {};`] as const;
  });
  assert.ok(scripts.length >= 7, `${scripts.length}`);
  consumer.write({
    'contract.ts': `
      import type {} from 'datasole';
      declare module 'datasole' {
        interface Register {
          contract: {
            rpc: { rename: { params: { title: string }; result: void } };
            events: { alert: { text: string } };
            state: { board: { title: string }; [key: \`board:\${number}\`]: { title: string } };
          };
        }
      }`,
    'globals.ts': `
      import type { DatasoleClient } from 'datasole/client';
      declare global {
        const client: DatasoleClient;
        const App: any;
        const token: string;
        const toast: (text: string) => void;
        interface Todo { id: string }
      }`,
  });
  const options = ['--module', 'esnext', '--moduleResolution', 'bundler', '--jsx', 'react-jsx', '--skipLibCheck', '--target', 'es2022'];
  const files = { ...Object.fromEntries(scripts), 'all.ts': `import './contract.js'; import './globals.js';` };
  assert.deepEqual(consumer.complaints(files, '--lib', 'es2022,dom', ...options), []);
});

it('has components for the client of pages that a server renders: the directive is the first statement', () => {
  for (const name of ['react', 'react-yjs']) {
    const [first] = readFileSync(new URL(`dist/${name}.mjs`, root), 'utf8').split('\n');
    assert.equal(first, "'use client';", name);
  }
  for (const name of ['live', 'vue', 'ssr']) assert.doesNotMatch(readFileSync(new URL(`dist/${name}.mjs`, root), 'utf8'), /use client/);
});

it('carries no CRDTs to pages that use hooks with the slim client', async () => {
  const { build } = await import('esbuild');
  const size = async (contents: string) => {
    const options = { bundle: true, minify: true, write: false, format: 'esm', logLevel: 'silent' } as const;
    const external = ['react', 'vue', './worker.mjs', './node.mjs', './datasole-*.mjs'];
    const { outputFiles } = await build({ stdin: { contents, resolveDir: fileURLToPath(root) }, external, ...options });
    return outputFiles[0]!.text;
  };
  const slim = await size(`
    import { DatasoleClient } from 'datasole/slim';
    import { DatasoleContext, useLiveState } from 'datasole/react';
    console.log(DatasoleClient, DatasoleContext, useLiveState);`);
  assert.doesNotMatch(slim, /pn-counter/);
  const full = await size(`export { DatasoleProvider } from 'datasole/react';`);
  assert.match(full, /pn-counter/);
  const vue = await size(`import { DatasoleClient } from 'datasole/slim'; import { datasole } from 'datasole/vue'; console.log(DatasoleClient, datasole);`);
  assert.doesNotMatch(vue, /pn-counter/);
  const [react, ...rest] = [slim, full, vue].map((text) => gzipSync(text).length);
  console.log(`gzip: hooks and slim client ${react}, provider and full client ${rest[0]}, composables and slim client ${rest[1]}`);
});

it('renders states on servers, without a connection', () => {
  const code = `
    const { createElement: h, Suspense } = await import('react');
    const { renderToString } = await import('react-dom/server');
    const { DatasoleProvider, useConnection, useCrdt, useLiveState, useMembers, useMyPresence, usePending, useSuspenseLiveState } = await import('datasole/react');
    const { useDocument } = await import('datasole/react/yjs');
    const Page = ({ initial }) => {
      useDocument('d');
      const board = useLiveState('k', (value) => value.n, { initial });
      return h('p', null, [
        board.status, board.data, board.stale, useConnection().state, useMembers('r').length, useMyPresence('r', 'me')[0],
        useCrdt('c', 'pn-counter').value, usePending().total, initial && useSuspenseLiveState('k', undefined, { initial }).n,
      ].join());
    };
    const Suspended = () => useSuspenseLiveState('k');
    const page = (...children) => h(DatasoleProvider, { options: { url: '/' } }, ...children);
    const render = (initial) => renderToString(page(h(Page, { initial })));
    const fallback = renderToString(page(h(Suspense, { fallback: 'wait' }, h(Suspended))));
    const { createSSRApp } = await import('vue');
    const { renderToString: toHtml } = await import('vue/server-renderer');
    const { DatasoleClient } = await import('datasole/client');
    const vue = await import('datasole/vue');
    const setup = (initial) => () => {
      const { status, data } = vue.useLiveState('k', (value) => value.n, { initial });
      vue.useEvent('e', () => {});
      const parts = [vue.useConnection().state, vue.useMembers('r'), vue.useMyPresence('r', 'me').value, vue.usePending()];
      return () => h2('p', [status.value, data.value, ...parts.map(({ value }) => value.total ?? value)].join());
    };
    const { h: h2 } = await import('vue');
    const html = (initial) => toHtml(createSSRApp({ setup: setup(initial) }).use(vue.datasole(new DatasoleClient({ url: '/' }))));
    const initial = { value: { n: 7 }, epoch: 1, seq: 2 };
    console.log(JSON.stringify([render(), render(initial), await html(), await html(initial), /wait/.test(fallback)]));
    console.log(process.getActiveResourcesInfo().filter((name) => /Timeout|Immediate|TCP/.test(name)).join());`;
  const [pages, resources] = run(code).split('\n');
  assert.deepEqual(JSON.parse(pages!), [
    '<p>loading,,false,disconnected,0,me,0,0,</p>',
    '<p>ready,7,true,disconnected,0,me,0,0,7</p>',
    '<p>loading,,disconnected,,me,0</p>',
    '<p>ready,7,disconnected,,me,0</p>',
    true,
  ]);
  assert.equal(resources ?? '', '');
});

