// The package as it is published: what `cargo xtask build` has put into dist.
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { createContext, runInContext } from 'node:vm';
import { gzipSync } from 'node:zlib';
import { WebSocket, WebSocketServer } from 'ws';
import { hubFile, PROTOCOL_VERSION, WASM_FILE } from '../src/protocol.js';
import { Consumer } from './consumer.js';
import { decode, encode, HELLO } from './fake-socket.js';

const root = new URL('../../', import.meta.url);
const manifest = JSON.parse(readFileSync(new URL('package.json', root), 'utf8'));

/** Runs a module in a Node of its own, where `datasole` is this package. */
function run(code: string): string {
  return execFileSync(process.execPath, ['--input-type=module', '-e', code], { cwd: root, encoding: 'utf8' }).trim();
}

describe('the package', () => {
  it('has every file it names', () => {
    const files = readdirSync(new URL('dist', root)).map((name) => `./dist/${name}`);
    const named = Object.values(manifest.exports).flatMap((entry) =>
      typeof entry === 'string' ? [entry] : Object.values(entry as Record<string, string>),
    );
    for (const name of named) if (name !== './package.json') assert.ok(files.includes(name), name);
  });

  it('has declarations that refer only to each other', () => {
    const dist = new URL('dist/', root);
    for (const name of readdirSync(dist, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.d.ts'))) {
      const file = new URL(name, dist);
      const text = readFileSync(file, 'utf8');
      for (const [, target] of text.matchAll(/from '(\.\.?\/.*?)\.js'/g)) readFileSync(new URL(`${target}.d.ts`, file));
      assert.doesNotMatch(text, /generated/, name);
    }
  });

  describe('declarations compile without skipLibCheck', () => {
    /** An empty project that has installed this package; yjs is none of it. */
    const consumer = new Consumer();
    const complaints = (program: string, ...options: string[]) => consumer.complaints({ 'main.mts': program }, ...options);
    before(() => consumer.make());
    after(() => consumer.remove());

    const program = `
      import { PNCounter, type Status } from 'datasole';
      import { DatasoleClient, type Room } from 'datasole/client';
      import 'datasole/client/worker';
      const client = new DatasoleClient({ url: '/' });
      const status: Status['state'] = client.getConnectionState();
      const room: Room = client.presence('r');
      const value: number = new PNCounter('a').value();
      export const all = [status, room, value];`;

    for (const lib of ['es2022', 'es2022,dom']) {
      for (const module of [['--module', 'nodenext'], ['--module', 'esnext', '--moduleResolution', 'bundler']]) {
        it(`with ${lib} and ${module.join(' ')}`, () => {
          assert.deepEqual(complaints(program, '--lib', lib, ...module), []);
        });
      }
    }

    it('and know the types of the platform where it has them', () => {
      const wrong = `
        import { DatasoleClient } from 'datasole/client';
        new DatasoleClient({ url: '/', worker: () => new Worker('w') }).rpc('m', 1, { signal: new AbortController().signal });
        new DatasoleClient({ url: '/', worker: () => 1 }).rpc('m', 1, { signal: 2 });`;
      const found = complaints(wrong, '--lib', 'es2022,dom', '--module', 'nodenext');
      assert.deepEqual(found.join('\n').match(/type '(Worker|AbortSignal)'/g), ["type 'Worker'", "type 'AbortSignal'"]);
      assert.ok(!found.some((line) => line.startsWith('main.mts(3,')), found.join('\n'));
    });

    describe('and have names of 1.x', () => {
      const contract = 'interface C { rpc: { add: { params: number; result: string } }; events: { e: 1 }; state: { k: { n: number } } }';
      const types = `AuthContext, AuthCredentials, AuthResult, ContractRpcResult, Crdt, CrdtOperation, CrdtState, CrdtType, DataFlowPattern,
        DatasoleContract, EventData, EventHandler, EventPayload, Frame, RpcCallOptions, RpcError, RpcMethodKey, RpcParams, RpcRequest,
        RpcResponse, RpcResult, StateKeyName, StatePatch, StateSnapshot, StateSubscription, StateValue, SyncGranularity`;
      const program = (from: string, lines: string[]) =>
        [
          `import type { ${types.replace(/\s+/g, ' ')} } from '${from}';`,
          `import { applyPatch, DEFAULT_WS_PATH } from 'datasole';`,
          `import { DatasoleClient } from 'datasole/client';`,
          contract,
          `declare const client: DatasoleClient<C>;`,
          ...lines,
        ].join('\n');
      const right = [
        `interface App extends DatasoleContract { rpc: { a: { params: {}; result: 1 } } }; new DatasoleClient<App>().rpc('a');`,
        `const call = <M extends RpcMethodKey<C>>(method: M, params: RpcParams<C, M>, options?: RpcCallOptions): Promise<ContractRpcResult<C, M>> => client.rpc(method, params, options);`,
        `client.subscribeState('k', () => {}) satisfies StateSubscription;`,
        `const handler: EventHandler = ({ data, timestamp }) => data + timestamp; client.on('e', handler);`,
        `({ authenticated: true, userId: 'ann', roles: ['admin'], metadata: { a: 1 } }) satisfies AuthResult; ({}) as AuthResult satisfies AuthContext;`,
        `const auth: AuthCredentials = { token: 't', headers: {} }; new DatasoleClient({ url: '/', auth });`,
        `({ correlationId: 1, error: { code: 1, message: 'm' } satisfies RpcError }) satisfies RpcResponse<number>;`,
        `({ method: 'add', params: 1, correlationId: 1 }) satisfies RpcRequest<number>;`,
        `({ opcode: 1, correlationId: 1, payload: new Uint8Array() }) satisfies Frame;`,
        `({ key: 'k', version: 1, data: { n: 1 } }) satisfies StateSnapshot<StateValue<C, StateKeyName<C>>>;`,
        `applyPatch({ n: 1 }, [{ op: 'replace', path: '/n', value: 2 } satisfies StatePatch]).n.toFixed();`,
        `DEFAULT_WS_PATH.length; 'debounced' satisfies SyncGranularity; 'server-event' satisfies DataFlowPattern;`,
        `declare const crdt: Crdt; crdt.type satisfies CrdtType; crdt.merge(crdt.state() satisfies CrdtState); crdt.apply({} as CrdtOperation);`,
      ];
      const wrong = [
        `({ timeout: '1' }) satisfies RpcCallOptions;`,
        `'sub' satisfies RpcMethodKey<C>;`,
        `1 satisfies ContractRpcResult<C, 'add'>;`,
        `({ userId: 'ann' }) satisfies AuthResult;`,
        `applyPatch({ n: 1 }, [{ op: 'change', path: '/n' }]);`,
        `'later' satisfies SyncGranularity;`,
      ];

      for (const from of ['datasole', 'datasole/server']) {
        for (const module of [['--module', 'nodenext'], ['--module', 'esnext', '--moduleResolution', 'bundler']]) {
          it(`of ${from} with ${module.join(' ')}`, () => {
            assert.deepEqual(complaints(program(from, right), '--lib', 'es2022,dom', ...module), []);
            const found = complaints(program(from, wrong), '--lib', 'es2022,dom', ...module);
            const at = found.map((line) => Number(/^main\.mts\((\d+),/.exec(line)?.[1])).filter(Boolean);
            assert.deepEqual(wrong.filter((_, index) => !at.includes(index + 6)), []);
          });
        }
      }

      it('of datasole/server as types only', () => {
        const found = complaints(`import { PNCounter } from 'datasole/server'; new PNCounter('a');`, '--lib', 'es2022,dom', '--module', 'nodenext');
        assert.match(found.join(), /'PNCounter' cannot be used as a value/);
      });
    });

    it('and take a token that may be missing where `undefined` is told from nothing', () => {
      const program = `
        import { DatasoleClient } from 'datasole/client';
        declare const token: string | undefined;
        new DatasoleClient({ url: '/', auth: { token } });`;
      const found = complaints(program, '--lib', 'es2022,dom', '--module', 'nodenext', '--exactOptionalPropertyTypes');
      assert.deepEqual(found, []);
    });

    describe('and hold programs to the contract that has registered itself', () => {
      const contract = readFileSync(new URL('../contract/tests/contract.ts', root), 'utf8');
      /** Programs of one line each: those that compile, and those that do not. */
      const [right, wrong] = [
        [
          `client.rpc('user.get', { id: 1 }).then((user) => user.displayName.length + user.created);`,
          `client.rpc('user.get', { id: 1, fields: ['a'] }, { timeout: 5 });`,
          `client.rpc('vote', { option: 1 }) satisfies Promise<void>;`,
          `client.rpc('list', { after: null }).then(({ items: [user] }) => user!.role.kind satisfies 'admin' | 'guest');`,
          `client.emit('chat:message', { text: 'hello' });`,
          `client.emit('chat:message', { text: 'hello' }, { queue: true }) satisfies boolean;`,
          `client.emit('typing');`,
          `client.emit('typing', {});`,
          `client.on('alert', ({ data }) => data.level[1].length);`,
          `client.on('chat:message', ({ data, timestamp }) => data.text.length + timestamp);`,
          `client.off('chat:message', ({ data }) => data.text.length);`,
          `client.onMissed((event) => event satisfies 'alert' | 'chat:message');`,
          `client.subscribeState('dashboard', (board) => board?.title.length);`,
          `client.subscribeState('board:red:7', (board) => board?.rows[1]?.length);`,
          `client.subscribeState('dashboard', () => {}).ready.then((board) => board?.title.length);`,
          `client.getState(\`board:\${'a'}:\${1}\`)?.title.length;`,
          `client.presence('lobby').members.map(({ value }) => value.x + value.y);`,
          `client.presence('lobby').join({ x: 1, y: 2 });`,
          `client.presence<{ z: 1 }>('lobby').join({ z: 1 });`,
          `({}) as RpcErrorData<AppContract, 'user.get'> satisfies { id: number };`,
          `({}) as RpcErrorData<AppContract, 'vote'> satisfies unknown;`,
          `'user.get' satisfies RpcName<AppContract>;`,
          `'alert' satisfies HeardName<AppContract>;`,
          `new DatasoleClient<Other>().rpc('other', 1).then((result) => result.length);`,
          `new DatasoleClient<DatasoleContract>().rpc('anything').then((result) => result.any.thing);`,
          `new DatasoleClient<DatasoleContract>().emit('anything', 1);`,
          `const call = <M extends RpcName<AppContract>>(method: M, params: RpcParams<AppContract, M>) => client.rpc(method, params); call('vote', { option: 1 });`,
          `const tell = <E extends SentName<AppContract>>(event: E, data: EventData<AppContract, E>) => client.emit(event, data); tell('typing', {});`,
          `live(client, 'dashboard').getSnapshot().data?.title.length;`,
          `ready(client, 'board:a:1').then((board) => board?.title.length);`,
          `const shown = live(client, 'dashboard').getSnapshot(); if (shown.status === 'ready') shown.data.title; if (shown.error) shown.error.code;`,
          `DatasoleClient.reuse().rpc('vote', { option: 1 });`,
          `contract.hash satisfies string;`,
        ],
        [
          `client.rpc('user.get');`,
          `client.rpc('user.get', { timeout: 5 });`,
          `client.rpc('user.get', { id: '1' });`,
          `client.rpc('user.got', { id: 1 });`,
          `client.rpc('user.get', { id: 1 }).then((user) => user.name);`,
          `client.rpc('vote', { option: 1 }).then((result) => result.length);`,
          `client.rpc('list', {});`,
          `client.emit('chat:message');`,
          `client.emit('chat:message', { text: 1 });`,
          `client.emit('alert', { level: [1, 'a'] });`,
          `client.on('typing', () => {});`,
          `client.on('alert', ({ data }) => data.text);`,
          `client.off('nothing', () => {});`,
          `client.subscribeState('board:7', () => {});`,
          `client.subscribeState('dashboards', () => {});`,
          `client.subscribeState('dashboard', (board) => board.title);`,
          `client.subscribeState('dashboard', () => {}).ready.then((board) => board?.name);`,
          `client.getState('dashboard')?.name;`,
          `client.presence('lobby').join({ x: 1 });`,
          `live(client, 'dashboards');`,
          `live(client, 'dashboard').getSnapshot().data.title;`,
          `client.presence('hall');`,
          `client.presence('lobby').members[0]!.value.z;`,
          `({}) as RpcErrorData<AppContract, 'user.get'> satisfies { name: string };`,
          `new DatasoleClient<Other>().rpc('other', 'a');`,
          `new DatasoleClient<Other>().emit('anything');`,
        ],
      ];
      const program = (lines: string[]) =>
        [
          `import type { DatasoleContract, EventData, HeardName, RpcErrorData, RpcName, RpcParams, SentName } from 'datasole';`,
          `import { live, ready } from 'datasole/live';`,
          `import { DatasoleClient } from 'datasole/client';`,
          `import { contract, type AppContract } from './contract.mjs';`,
          `interface Other { rpc: { other: { params: number; result: string } }; events: {}; state: {} }`,
          `const client = new DatasoleClient();`,
          ...lines,
        ].join('\n');

      it(`compiles ${right!.length} right lines`, () => {
        consumer.write({ 'contract.mts': contract });
        assert.deepEqual(complaints(program(right!), '--lib', 'es2022,dom', '--module', 'nodenext'), []);
      });

      it(`refuses ${wrong!.length} wrong lines`, () => {
        const found = complaints(program(wrong!), '--lib', 'es2022,dom', '--module', 'nodenext');
        const at = new Set(found.map((line) => Number(/^main\.mts\((\d+),/.exec(line)?.[1])).filter(Boolean));
        assert.deepEqual(wrong!.filter((_, index) => !at.has(index + 7)), []);
      });
    });

    it('with yjs, what is ours', () => {
      consumer.install('yjs', 'y-protocols', 'lib0');
      const program = `
        import { DatasoleProvider } from 'datasole/yjs';
        export const make: typeof DatasoleProvider = DatasoleProvider;`;
      const found = complaints(program, '--lib', 'es2022,dom', '--module', 'nodenext');
      assert.deepEqual(found.filter((line) => /datasole|main/.test(line)), []);
    });
  });

  it('is imported on a server without any effect', () => {
    const code = `
      const before = Reflect.ownKeys(globalThis);
      const main = await import('datasole');
      const client = await import('datasole/client');
      await import('datasole/client/worker');
      new client.DatasoleClient({ url: '/relative' });
      const added = Reflect.ownKeys(globalThis).filter((name) => !before.includes(name));
      console.log(JSON.stringify([main.DatasoleError === client.DatasoleError, added, process.getActiveResourcesInfo()]));`;
    const [same, added, active] = JSON.parse(run(code));
    assert.deepEqual([same, added], [true, []]);
    assert.ok(!active.some((name: string) => /Timeout|Immediate|MessagePort/.test(name)), String(active));
  });

  it('is bundled for browsers without complaint, and without the wasm', async () => {
    const { build } = await import('esbuild');
    const { errors, warnings, outputFiles } = await build({
      stdin: { contents: "export * from 'datasole/client'; export * from 'datasole';", resolveDir: fileURLToPath(root) },
      bundle: true,
      format: 'esm',
      platform: 'browser',
      write: false,
      logLevel: 'silent',
    });
    assert.deepEqual([errors, warnings], [[], []]);
    assert.doesNotMatch(outputFiles[0]!.text, /require\(|from "node:|import\("node:/);
  });

  /** The global that a script of the package makes in a page. */
  function loaded(script: string): any {
    const { URL, TextEncoder, TextDecoder, crypto, queueMicrotask } = globalThis;
    const page: any = createContext({ URL, TextEncoder, TextDecoder, crypto, queueMicrotask });
    runInContext(readFileSync(new globalThis.URL(`dist/${script}`, root), 'utf8'), page);
    return page.Datasole;
  }

  it('has all for script tags in one script, CRDTs too', () => {
    const { DatasoleClient, ...names } = loaded('datasole.iife.min.js');
    const crdts = ['CrdtStore', 'GCounter', 'GSet', 'LWWMap', 'LWWRegister', 'ORSet', 'PNCounter'];
    assert.deepEqual(Object.keys(names).sort(), [...crdts, 'DatasoleError', 'ErrorCode'].sort());
    const counter = new names.PNCounter('a');
    counter.increment(2);
    assert.equal(counter.value(), 2);
    assert.equal(new DatasoleClient({ url: 'http://127.0.0.1:1' }).crdt.counter('votes').value(), 0);
  });

  it('has a slim script without CRDTs, which names the other', () => {
    const { DatasoleClient, ...names } = loaded('datasole.slim.iife.min.js');
    assert.deepEqual(Object.keys(names).sort(), ['DatasoleError', 'ErrorCode']);
    const client = new DatasoleClient({ url: 'http://127.0.0.1:1' });
    for (const use of [() => client.crdt, () => client.registerCrdt('a')]) {
      assert.throws(use, /datasole\.slim\.iife\.min\.js has no CRDTs: load datasole\.iife\.min\.js/);
    }
    const [slim, full] = ['slim.', ''].map((variant) => readFileSync(new URL(`dist/datasole.${variant}iife.min.js`, root)));
    assert.ok(gzipSync(slim!).length + 3 * 1024 < gzipSync(full!).length, 'the CRDTs are left out, not only hidden');
  });

  it('has under the old name of the worker a script that answers old pages with an error', () => {
    const posted: any[] = [];
    const logged: string[] = [];
    const scope: any = createContext({
      WorkerGlobalScope: Object,
      postMessage: (message: unknown) => posted.push(message),
      console: { error: (text: string) => logged.push(text) },
    });
    const script = readFileSync(new URL('dist/datasole-worker.iife.min.js', root), 'utf8');
    assert.ok(script.length <= 10 * 1024);
    runInContext(script, scope);
    const [fatal] = JSON.parse(posted.shift());
    assert.equal(fatal.t, 'fatal', 'a page that waits for a greeting');
    assert.match(fatal.message, new RegExp(`datasole-worker\\.v${PROTOCOL_VERSION}\\.js`));
    scope.onmessage({ data: { type: 'connect', payload: { url: 'ws://127.0.0.1:1' } } });
    scope.onmessage({ data: { type: 'send', payload: { data: new Uint8Array(1) } } });
    scope.onmessage({ data: { type: 'disconnect' } });
    assert.deepEqual(posted.map(({ type, payload }) => [type, payload.message]), [['error', fatal.message]]);
    assert.deepEqual(logged, [fatal.message]);
  });

  it('has a worker that starts in dedicated workers only, and else leaves its engine for the client', () => {
    const left = (page: object) => runInContext("typeof globalThis[Symbol.for('datasole.engine')]", page as any);
    const load = (scope: object, before = ''): any => {
      const { URL, TextEncoder, TextDecoder, setImmediate, performance, AbortController } = globalThis;
      const page: any = createContext({ URL, TextEncoder, TextDecoder, setImmediate, performance, AbortController, ...scope });
      runInContext(before, page);
      runInContext(readFileSync(new globalThis.URL(`dist/datasole-worker.v${PROTOCOL_VERSION}.js`, root), 'utf8'), page);
      return page;
    };
    const posted: unknown[] = [];
    const dedicated = load({ WorkerGlobalScope: Object, postMessage: (batch: string) => posted.push(batch) });
    assert.deepEqual([posted, typeof dedicated.onmessage], [[JSON.stringify([{ t: 'here', v: PROTOCOL_VERSION }])], 'function']);
    assert.equal(left(dedicated), 'undefined');
    // A service or a shared worker has no page of its own.
    const shared = load({ WorkerGlobalScope: Object });
    assert.deepEqual([left(shared), shared.onmessage], ['function', undefined]);
    const asked = load({ postMessage: () => assert.fail() }, "globalThis[Symbol.for('datasole.engine')] = null");
    assert.equal(left(asked), 'function');
    assert.equal(left(load({})), 'undefined', 'a page that did not ask');
  });

  it('names worker and wasm by the version of their protocol, everywhere', () => {
    const names = [`datasole-worker.v${PROTOCOL_VERSION}.js`, WASM_FILE];
    const dist = readdirSync(new URL('dist', root));
    for (const name of names) {
      assert.ok(dist.includes(name), name);
      assert.ok(manifest.exports[`./${name}`], name);
    }
    const texts = ['README.md', 'src/options.ts', '../README.md', '../xtask/src/assets.rs', '../xtask/src/budget.rs'];
    for (const file of texts) {
      const text = readFileSync(new URL(file, root), 'utf8');
      const named = text.match(/datasole-worker\.v\d+\.js|datasole\.v\d+\.wasm/g) ?? [];
      assert.deepEqual([...new Set(named)].sort(), [...names].sort(), file);
    }
    // Only the worker names it.
    assert.ok(dist.includes(hubFile()));
    assert.ok(readFileSync(new URL('../xtask/src/assets.rs', root), 'utf8').includes(`"${hubFile()}"`));
  });

  it('has CRDTs for both sides, and a provider for documents', () => {
    const code = `
      const { PNCounter, GCounter, LWWRegister, LWWMap, ORSet, GSet } = await import('datasole');
      const { DatasoleProvider } = await import('datasole/yjs');
      const [a, b] = [new PNCounter('a'), new PNCounter('b')];
      b.apply(a.increment(5));
      a.merge(b.state());
      const types = [GCounter, LWWRegister, LWWMap, ORSet, GSet].map((Crdt) => new Crdt('a').type);
      console.log(a.value(), b.value(), types.join(), typeof DatasoleProvider);`;
    assert.equal(run(code), '5 5 g-counter,lww-register,lww-map,or-set,g-set function');
  });

  it('lets nothing remain of what is not used', async () => {
    const { build } = await import('esbuild');
    const { outputFiles } = await build({
      stdin: { contents: "import 'datasole'; import 'datasole/client';", resolveDir: fileURLToPath(root) },
      bundle: true,
      format: 'esm',
      write: false,
      logLevel: 'silent',
    });
    assert.equal(outputFiles[0]!.text.trim(), '');
  });

  it('has values of 1.x, and of those nothing that is not used', async () => {
    const code = `
      import { applyPatch, DEFAULT_WS_PATH } from 'datasole';
      const before = { a: { n: 1 }, b: {} };
      const after = applyPatch(before, [{ op: 'replace', path: '/a/n', value: 2 }]);
      console.log(JSON.stringify([before, after, before.b === after.b, DEFAULT_WS_PATH]));`;
    assert.deepEqual(JSON.parse(run(code)), [{ a: { n: 1 }, b: {} }, { a: { n: 2 }, b: {} }, true, '/__ds']);
    const { build } = await import('esbuild');
    const { outputFiles } = await build({
      stdin: { contents: "import { DEFAULT_WS_PATH } from 'datasole'; console.log(DEFAULT_WS_PATH);", resolveDir: fileURLToPath(root) },
      bundle: true,
      minify: true,
      format: 'esm',
      write: false,
      logLevel: 'silent',
    });
    assert.ok(outputFiles[0]!.text.length < 100, outputFiles[0]!.text);
  });

  it('tells bundlers which imports are none of their business', () => {
    const text = ['client', 'slim', 'node'].map((name) => readFileSync(new URL(`dist/${name}.mjs`, root), 'utf8')).join();
    for (const [, target] of text.matchAll(/\bimport\(([^)]*)\)/g)) {
      // webpack takes this for a file to be copied, and warns.
      assert.doesNotMatch(text, /new URL\([^)]*import\.meta\.url/);
      if (!/^"\.\/(worker|node|datasole-(probe|shared))\.mjs"$/.test(target!)) assert.match(target!, /webpackIgnore: true.*@vite-ignore/s);
    }
  });

  it('says what is missing where there is no WebSocket', () => {
    const code = `
      delete globalThis.WebSocket;
      const { DatasoleClient } = await import('datasole/client');
      const client = new DatasoleClient({ url: 'http://127.0.0.1:1' });
      await client.connect().catch((error) => console.log(error.name, error.code, error.message));`;
    assert.match(run(code), /^DatasoleError -32106 .*globalThis\.WebSocket/);
  });

  it('runs in Node on a WebSocket given to it, and lets the process end', async () => {
    const headers: unknown[] = [];
    const server = new WebSocketServer({
      port: 0,
      host: '127.0.0.1',
      handleProtocols: (offered) => (offered.has('datasole.v2') ? 'datasole.v2' : false),
    });
    server.on('connection', (socket, request) => {
      headers.push(request.headers['x-key']);
      socket.send(encode({ opcode: 0x10, correlation: 0, payload: HELLO }));
      socket.on('message', (message: Buffer) => {
        const { opcode, correlation, payload } = decode(message);
        if (opcode !== 0x01) return;
        const answer = { correlationId: correlation, result: payload.params };
        socket.send(encode({ opcode: 0x02, correlation, payload: answer }));
      });
    });
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const code = `
      import { WebSocket } from 'ws';
      import { DatasoleClient } from 'datasole/client';
      globalThis.WebSocket = WebSocket;
      const client = new DatasoleClient({ url: 'http://127.0.0.1:${port}', auth: { headers: { 'x-key': 'k' } } });
      await client.connect();
      const long = 'x'.repeat(100_000);
      const same = (await client.rpc('echo', long)) === long;
      console.log(same, client.getConnectionState());
      await client.disconnect();`;
    // Not `run`, which would keep the server from answering.
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', code], { cwd: root });
    assert.equal(stdout.trim(), 'true connected');
    assert.deepEqual(headers, ['k']);
    for (const socket of server.clients) (socket as WebSocket).terminate();
    server.close();
  });
});
