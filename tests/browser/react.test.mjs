// The hooks of `datasole/react` in React itself: what is rendered when, and what goes over the wire.

import assert from 'node:assert/strict';

import { describeInBrowser, rpc, until } from './harness.mjs';
import { OP, open, text } from './react.mjs';

describeInBrowser((spec) => {
  spec('a state is rendered once for each batch, and not where a selection is unchanged', async (world) => {
    const page = await open(world);
    await page.evaluate(async () => {
      await connected();
      window.renders = { whole: 0, part: 0, listed: 0 };
      const Whole = () => (renders.whole++, h('p', null, JSON.stringify(useLiveState('dashboard').data?.rows)));
      const Part = () => (renders.part++, h('p', null, useLiveState('dashboard', (board) => board.visitors).data));
      const same = (a, b) => a[0] === b[0];
      const Listed = () => (renders.listed++, h('p', null, useLiveState('dashboard', (board) => [board.visitors], { equals: same }).data));
      show(() => [h(Whole, { key: 1 }), h(Part, { key: 2 }), h(Listed, { key: 3 })]);
    });
    await rpc(page, 'bump');
    await until(page, () => document.getElementById('root').textContent.endsWith(']11'));
    const counts = await page.evaluate(async () => {
      const before = { ...renders };
      let batches = 0;
      const state = live(client, 'dashboard');
      if (!Object.isFrozen(state.getSnapshot().data.rows[0])) throw new Error('a development build freezes values');
      state.subscribe(() => batches++);
      for (let n = 0; n < 5; n++) await Promise.all(Array.from({ length: 20 }, () => client.rpc('bump', { row: 1 })));
      // React has rendered what it was told.
      await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
      const { rows } = state.getSnapshot().data;
      const of = (name) => renders[name] - before[name];
      return { n: rows[1].n, batches, whole: of('whole'), part: of('part'), listed: of('listed') };
    });
    console.log(`React, 100 changes of a state: ${JSON.stringify(counts)}`);
    assert.ok(counts.n >= 100);
    assert.ok(counts.batches > 0 && counts.whole <= counts.batches, JSON.stringify(counts));
    assert.deepEqual([counts.part, counts.listed], [0, 0]);
  });

  spec('StrictMode follows a key once, and shows no flash', async (world) => {
    const page = await open(world);
    await page.evaluate(async () => {
      await connected();
      await client.rpc('setState', { key: 'k', value: 'here' });
      window.seen = [];
      const Value = () => {
        const { status, data } = useLiveState('k');
        seen.push(status);
        return h('p', null, data);
      };
      window.Value = Value;
      show(Value, { strict: true });
    });
    await text(page, 'here');
    const sent = page.wire.sent.filter((op) => op === OP.subscribe || op === OP.unsubscribe);
    assert.deepEqual(sent, [OP.subscribe]);
    assert.deepEqual([...new Set(await page.evaluate(() => seen))], ['loading', 'ready']);
    // Mounted anew, it is there at once.
    await page.evaluate(async () => {
      show(() => null, { strict: true });
      await new Promise((resolve) => setTimeout(resolve));
      seen.length = 0;
      show(Value, { strict: true });
    });
    await text(page, 'here');
    assert.deepEqual([...new Set(await page.evaluate(() => seen))], ['ready']);
    assert.deepEqual([page.wire.sockets, page.wire.sent.filter((op) => op === OP.subscribe).length], [1, 1]);
  });

  spec('suspense waits for a value, and what is left while it waits is released', async (world) => {
    const page = await open(world);
    await page.evaluate(async () => {
      await connected();
      await client.rpc('setState', { key: 'k', value: { title: 'here' } });
      const Title = () => h('p', null, String(useSuspenseLiveState('k', ({ title }) => title)));
      const None = () => h('p', null, String(useSuspenseLiveState('none')));
      const wait = h('p', null, 'wait');
      window.seen = [];
      new MutationObserver(() => seen.push(document.getElementById('root').textContent)).observe(document.getElementById('root'), { childList: true, subtree: true, attributes: true });
      show(() => h(React.Suspense, { fallback: wait }, h(Title), h(None)));
    });
    await text(page, 'hereundefined');
    assert.ok((await page.evaluate(() => seen)).some((text) => text.includes('wait')));
    const subscribed = page.wire.sent.filter((op) => op === OP.subscribe).length;
    assert.equal(subscribed, 2);
    await page.evaluate(async () => {
      const Left = () => h('p', null, String(useSuspenseLiveState('left')));
      show(() => h(React.Suspense, { fallback: 'wait' }, h(Left)));
      // Followed in render: no effect runs while it is suspended.
      while (!client.store.peek('left')) await new Promise((resolve) => setTimeout(resolve));
      show(() => null);
    });
    // 5 s after the last reader.
    await until(page, () => client.store.peek('left') === undefined && client.store.peek('k') === undefined);
    assert.equal(page.wire.sent.filter((op) => op === OP.unsubscribe).length, 3);
  });

  spec('a tree that is suspended with its provider connects, and its client ends with the provider', async (world) => {
    const page = await open(world);
    await page.evaluate(() => {
      window.options = { url: location.origin, useWorker: false };
      const Nothing = () => h('p', null, `nothing: ${useSuspenseLiveState('none')}`);
      const tree = h(React.Suspense, { fallback: 'wait' }, h(DatasoleProvider, { options }, h(Nothing)));
      window.root = newRoot();
      root.render(tree);
    });
    await text(page, 'nothing: undefined');
    await page.evaluate(() => {
      window.client = clientOf();
      root.render(null);
    });
    await until(page, () => client.getConnectionState() === 'disconnected');
    assert.equal(page.wire.sockets, 1);
  });

  spec('a state that is awaited when its client is disconnected is an error for boundaries', async (world) => {
    const page = await open(world);
    await page.evaluate(async () => {
      await connected();
      class Boundary extends React.Component {
        state = {};
        static getDerivedStateFromError = (error) => ({ error });
        render = () => (this.state.error ? h('p', null, this.state.error.message) : this.props.children);
      }
      const Thrown = () => h('p', null, useSuspenseLiveState('never'));
      show(() => h(Boundary, null, h(React.Suspense, { fallback: '…' }, h(Thrown))));
      while (!client.store.peek('never')) await new Promise((resolve) => setTimeout(resolve));
      await client.disconnect();
    });
    await text(page, 'the client is closed');
    world.errors.length = 0;
  });

  spec('a provider leaves a client as its application has disconnected it, and calls the latest functions', async (world) => {
    const page = await open(world);
    await page.evaluate(() => {
      window.asked = [];
      // New options at each render, as applications write them.
      window.User = () => {
        window.client = useClient();
        return h('p', null, `${useConnection().state} ${window.version}`);
      };
      window.render = (version) => {
        window.version = version;
        show(User, { getToken: () => (asked.push(version), 'ann') });
      };
      render(1);
    });
    await text(page, 'connected 1');
    await page.evaluate(() => {
      window.first = client;
      return client.disconnect();
    });
    await text(page, 'disconnected 1');
    await page.evaluate(() => render(2));
    await text(page, 'disconnected 2');
    assert.equal(await page.evaluate(() => client === first), true);
    assert.equal(page.wire.sockets, 1);
    await page.evaluate(() => client.connect());
    await text(page, 'connected 2');
    assert.deepEqual(await page.evaluate(() => asked), [1, 2]);
    assert.equal(page.wire.sockets, 2);
  });

  spec('what a server has rendered is shown for its key only', async (world) => {
    const page = await open(world);
    await page.evaluate(async () => {
      await connected();
      for (const id of [1, 2]) await client.rpc('setState', { key: `board:${id}`, value: { title: `live ${id}` } });
      window.initial = { value: { title: 'rendered 1' }, epoch: 1, seq: 1 };
      window.seen = [];
      const title = (board) => board.title;
      window.Board = ({ id }) => {
        const { data } = useLiveState(`board:${id}`, title, { initial });
        seen.push([id, data]);
        return h('p', null, data ?? '…');
      };
      window.Awaited = ({ id }) => h('p', null, String(useSuspenseLiveState(`board:${id}`, title, { initial })));
      window.boards = (id) => show(() => [h(Board, { key: 1, id }), h(React.Suspense, { key: 2, fallback: '…' }, h(Awaited, { id }))]);
      boards(1);
    });
    await text(page, 'live 1live 1');
    await page.evaluate(() => boards(2));
    await text(page, 'live 2live 2');
    const seen = await page.evaluate(() => seen);
    assert.deepEqual(seen[0], [1, 'rendered 1']);
    assert.deepEqual(seen.filter(([id, data]) => id === 2 && data !== undefined && data !== 'live 2'), []);
  });

  spec('a refusal is an error for boundaries, or a status', async (world) => {
    const page = await open(world);
    await page.evaluate(async () => {
      await connected();
      class Boundary extends React.Component {
        state = {};
        static getDerivedStateFromError = (error) => ({ error });
        render = () => (this.state.error ? h('p', null, this.state.error.name) : this.props.children);
      }
      const long = 'k'.repeat(300);
      const Thrown = () => h('p', null, useSuspenseLiveState(long));
      const Shown = () => h('p', null, useLiveState(long).status);
      const Skipped = () => h('p', null, useLiveState(null).status);
      show(() => [h(Shown, { key: 1 }), h(Skipped, { key: 2 }), h(Boundary, { key: 3 }, h(React.Suspense, { fallback: '…' }, h(Thrown)))]);
    });
    await text(page, 'refusedloadingDatasoleError');
    world.errors.length = 0;
  });

  spec('another client takes the place of the one before, which is disconnected', async (world) => {
    const page = await open(world);
    await page.evaluate(() => {
      const User = () => h('p', null, useConnection().userId ?? 'nobody');
      window.User = User;
      show(User, { auth: { token: 'ann' } });
      window.ann = DatasoleClient.reuse({ url: location.origin, useWorker: false, auth: { token: 'ann' } });
    });
    await text(page, 'ann');
    await page.evaluate(() => show(User, { auth: { token: 'bob' } }));
    await text(page, 'bob');
    await until(page, () => ann.getConnectionState() === 'disconnected');
    assert.equal(page.wire.sockets, 2);
  });

  spec('hooks of another contract have a provider of their own, which connects the client it is given', async (world) => {
    const page = await open(world);
    await page.evaluate(() => {
      const other = createHooks();
      const bob = new DatasoleClient({ url: location.origin, useWorker: false, auth: { token: 'bob' } });
      const Users = () => h('p', null, `${useConnection().userId} ${other.useConnection().userId}`);
      const Outside = () => {
        try {
          return other.useClient();
        } catch ({ message }) {
          return h('p', null, message);
        }
      };
      show(() => [h(Outside, { key: 1 }), h(other.DatasoleProvider, { client: bob, key: 2 }, h(Users))], { auth: { token: 'ann' } });
    });
    await text(page, 'datasole: there is no DatasoleProvider above this componentann bob');
    assert.equal(page.wire.sockets, 2);
  });

  spec('all parts of a tree show the same value, transitions included', async (world) => {
    const page = await open(world);
    const torn = await page.evaluate(async () => {
      await connected();
      await client.rpc('setState', { key: 'n', value: 0 });
      const slow = (millis) => {
        for (const end = performance.now() + millis; performance.now() < end; );
      };
      const commits = [];
      const Cell = () => (slow(1), h('i', null, useLiveState('n').data ?? '-'));
      const Grid = ({ size }) => {
        React.useLayoutEffect(() => {
          commits.push(new Set([...document.querySelectorAll('i')].map(({ textContent }) => textContent)));
        });
        return Array.from({ length: size }, (_, at) => h(Cell, { key: at }));
      };
      let grow;
      const Page = () => {
        const [size, setSize] = React.useState(0);
        grow = setSize;
        return h(Grid, { size });
      };
      show(Page);
      const tick = () => new Promise((resolve) => setTimeout(resolve));
      while (!grow) await tick();
      let n = 0;
      const changing = setInterval(() => void client.rpc('setState', { key: 'n', value: ++n }), 2);
      for (const size of [50, 0, 80]) {
        const before = n;
        React.startTransition(() => grow(size));
        while (document.querySelectorAll('i').length !== size || n < before + 20) await tick();
      }
      clearInterval(changing);
      return { commits: commits.length, changes: n, torn: commits.filter(({ size }) => size > 1).length };
    });
    console.log(`React, transitions while a state changes: ${JSON.stringify(torn)}`);
    assert.ok(torn.commits >= 3 && torn.changes >= 60, JSON.stringify(torn));
    assert.equal(torn.torn, 0);
  });

  spec('10,000 mounts leave no handler, and modules that are evaluated again no connection', async (world) => {
    const page = await open(world);
    const rest = await page.evaluate(async () => {
      const client = await connected();
      let mounts = 0;
      const Row = () => {
        React.useEffect(() => void mounts++, []);
        useEvent('chat:message', () => {});
        useConnection();
        usePending();
        useMembers('lobby');
        return useLiveState('dashboard', ({ visitors }) => visitors).data;
      };
      const Rows = ({ round }) => Array.from({ length: 100 }, (_, at) => h(Row, { key: `${round} ${at}` }));
      const begin = performance.now();
      for (let round = 0; round < 100; round++) {
        show(() => h(Rows, { round }));
        while (mounts < 100 * (round + 1)) await new Promise((resolve) => setTimeout(resolve));
      }
      const millis = Math.round(performance.now() - begin);
      show(() => null);
      const { store } = client;
      while (store.watchers.size) await new Promise((resolve) => setTimeout(resolve));
      const { traffic } = client;
      return { mounts, millis, handlers: store.peek('dashboard')?.handlers.size ?? 0, watchers: store.watchers.size, traffic: typeof traffic };
    });
    console.log(`React, 10,000 mounts: ${JSON.stringify(rest)}`);
    assert.deepEqual([rest.mounts, rest.handlers, rest.watchers, rest.traffic], [10_000, 0, 0, 'undefined']);
    // As a development server does: the module of the components runs again, what it imports does not.
    for (let version = 0; version < 5; version++) {
      await page.evaluate((version) => show(() => h('p', null, `version ${version}: ${useConnection().state}`)), version);
      await text(page, `version ${version}: connected`);
    }
    assert.equal(page.wire.sockets, 1);
  });

  spec('events reach the handler of the last render, and missed ones are told to who follows them', async (world) => {
    const page = await open(world);
    await page.evaluate(async () => {
      await connected();
      window.heard = [];
      window.missed = [];
      const Chat = ({ prefix }) => {
        useEvent('chat:message', ({ data }) => heard.push(prefix + data), { onMissed: () => missed.push('chat') });
        useEvent('other', () => {}, { onMissed: () => missed.push('other') });
        useEvent(null, () => heard.push('never'));
        return h('p', null, prefix);
      };
      window.chat = (prefix) => show(() => h(Chat, { prefix }));
      window.Chat = Chat;
      show(function Page() {
        const [prefix, setPrefix] = React.useState('a');
        window.setPrefix = setPrefix;
        return h(Chat, { prefix });
      });
    });
    await text(page, 'a');
    await page.evaluate(async () => {
      client.emit('chat:message', 1);
    });
    await until(page, () => heard.length === 1);
    await page.evaluate(() => setPrefix('b'));
    await text(page, 'b');
    await page.evaluate(() => client.emit('chat:message', 2));
    await until(page, () => heard.length === 2);
    assert.deepEqual(await page.evaluate(() => heard), ['a1', 'b2']);
    assert.equal(page.wire.sent.filter((op) => op === OP.subscribe).length, 2);
    await world.server.kill();
    await world.server.restart();
    await until(page, () => missed.length === 2);
    assert.deepEqual((await page.evaluate(() => missed)).sort(), ['chat', 'other']);
  });

  spec('calls: a stable function, and how the last one went', async (world) => {
    const page = await open(world);
    await page.evaluate(async () => {
      await connected();
      window.functions = new Set();
      window.told = [];
      show(function Form() {
        const add = useRpc('add');
        const sum = useMutation('add', { onSuccess: ({ sum }, { a }) => told.push(`${a}: ${sum}`), onError: ({ message }) => told.push(message) });
        const failing = useMutation('fail');
        functions.add(add).add(sum.run);
        Object.assign(window, { add, sum, failing });
        return h('p', null, [sum.pending, sum.data?.sum, failing.error?.message].join());
      });
    });
    await text(page, 'false,,');
    assert.deepEqual(await page.evaluate(() => add({ a: 1, b: 2 })), { sum: 3 });
    assert.deepEqual(await page.evaluate(() => sum.run({ a: 3, b: 4 })), { sum: 7 });
    await text(page, 'false,7,');
    // Left alone, a failure is shown, and not uncaught.
    await page.evaluate(() => void failing.run());
    await text(page, 'false,7,boom');
    await page.evaluate(() => (sum.reset(), failing.reset()));
    await text(page, 'false,,');
    assert.deepEqual(await page.evaluate(() => [functions.size, told]), [2, ['3: 7']]);
  });

  spec('members, own presence and CRDTs meet in two pages; what is pending guards the page', async (world) => {
    const pages = [await open(world), await open(world)];
    for (const [index, page] of pages.entries()) {
      await page.evaluate(async (index) => {
        await connected();
        window.renders = 0;
        const Others = () => {
          renders++;
          return h('p', null, 'with ' + useMembers('lobby', (others) => others.map(({ value }) => value.name + value.x).join()));
        };
        const Me = () => {
          const [me, update] = useMyPresence('lobby', { name: 'page' + index, x: 0 });
          window.update = update;
          return h('p', null, ` as ${me.name}${me.x}`);
        };
        const Likes = () => {
          const { value, crdt, pending } = useCrdt('likes', 'pn-counter');
          window.likes = crdt;
          return h('p', null, ` ${value} likes`);
        };
        const Tags = () => h('p', null, ` ${useCrdt('tags', 'or-set').value.join('+')}`);
        show(() => [h(Others, { key: 1 }), h(Me, { key: 2 }), h(Likes, { key: 3 }), h(Tags, { key: 4 })], { strict: true });
      }, index);
    }
    const [one, two] = pages;
    await text(one, 'with page10 as page00 0 likes ');
    await text(two, 'with page00 as page10 0 likes ');
    const before = await one.evaluate(() => renders);
    await one.evaluate(() => (update({ x: 5 }), likes.increment(2), client.crdt.set('tags').add('new')));
    await text(two, 'with page05 as page10 2 likes new');
    await text(one, 'with page10 as page05 2 likes new');
    assert.equal(await one.evaluate(() => renders), before, 'own presence renders nobody else');
    await two.evaluate(() => root.unmount());
    await text(one, 'with  as page05 2 likes new');

    await one.evaluate(() => {
      show(() => {
        useUnloadGuard();
        return h('button', null, String(usePending().total));
      });
    });
    await text(one, '0');
    await one.evaluate(() => void client.rpc('slow', 60_000).catch(() => {}));
    await text(one, '1');
    // A page that was never touched may not ask.
    await one.click('button');
    const asked = one.waitForEvent('dialog');
    const closed = one.close({ runBeforeUnload: true });
    const dialog = await asked;
    assert.equal(dialog.type(), 'beforeunload');
    await dialog.accept();
    await closed;
  });

  spec('a document is shared by components, and by pages', async (world) => {
    const pages = [await open(world), await open(world)];
    for (const page of pages) {
      await page.evaluate(async () => {
        await connected();
        const docs = new Set();
        window.docs = docs;
        const Text = () => {
          const { doc, provider, synced, pending } = useDocument('notes');
          const [, changed] = React.useReducer((n) => n + 1, 0);
          docs.add(doc);
          window.doc = doc;
          window.provider = provider;
          React.useEffect(() => {
            doc.on('update', changed);
            return () => doc.off('update', changed);
          }, [doc]);
          return h('p', null, `${doc.getText('text')} ${synced} ${pending};`);
        };
        show(() => [h(Text, { key: 1 }), h(Text, { key: 2 })], { strict: true });
      });
      await until(page, () => document.getElementById('root').textContent.endsWith('true 0;'));
    }
    await pages[0].evaluate(() => doc.getText('text').insert(0, 'hello'));
    for (const page of pages) await text(page, 'hello true 0;hello true 0;');
    assert.equal(await pages[0].evaluate(() => docs.size), 1);
    const ended = await pages[1].evaluate(async () => {
      const { provider } = window;
      root.unmount();
      return provider.awareness.getLocalState();
    });
    assert.equal(ended, null);
  });
});
