// The composables of `datasole/vue` in Vue itself: what is rendered when, and what goes over the wire.

import assert from 'node:assert/strict';

import { describeInBrowser, rpc, until } from './harness.mjs';
import { OP, open, text } from './vue.mjs';

describeInBrowser((spec) => {
  spec('a state is rendered once for each batch, and not where a selection is unchanged', async (world) => {
    const page = await open(world);
    await page.evaluate(() => {
      window.renders = { whole: 0, part: 0, listed: 0 };
      const Whole = { setup: () => ((board) => () => (renders.whole++, h('p', JSON.stringify(board.data.value?.rows))))(useLiveState('dashboard')) };
      const Part = { setup: () => (({ data }) => () => (renders.part++, h('p', data.value)))(useLiveState('dashboard', ({ visitors }) => visitors)) };
      const equals = (a, b) => a[0] === b[0];
      const listed = () => useLiveState('dashboard', ({ visitors }) => [visitors], { equals });
      const Listed = { setup: () => (({ data }) => () => (renders.listed++, h('p', data.value?.[0])))(listed()) };
      show(() => () => [h(Whole), h(Part), h(Listed)]);
    });
    await rpc(page, 'bump');
    await until(page, () => document.getElementById('root').textContent.endsWith(']11'));
    const counts = await page.evaluate(async () => {
      const before = { ...renders };
      let batches = 0;
      const state = live(client, 'dashboard');
      state.subscribe(() => batches++);
      for (let n = 0; n < 5; n++) await Promise.all(Array.from({ length: 20 }, () => client.rpc('bump', { row: 1 })));
      await Vue.nextTick();
      const of = (name) => renders[name] - before[name];
      return { n: state.getSnapshot().data.rows[1].n, batches, whole: of('whole'), part: of('part'), listed: of('listed') };
    });
    console.log(`Vue, 100 changes of a state: ${JSON.stringify(counts)}`);
    assert.ok(counts.n >= 100);
    assert.ok(counts.batches > 0 && counts.whole <= counts.batches, JSON.stringify(counts));
    assert.deepEqual([counts.part, counts.listed], [0, 0]);
  });

  spec('keys change, selections follow refs, and what is mounted anew shows no flash', async (world) => {
    const page = await open(world);
    await page.evaluate(async () => {
      for (const key of ['a', 'b']) await client.rpc('setState', { key, value: { [key]: 1, size: key } });
      window.key = Vue.ref('a');
      window.member = Vue.ref('size');
      window.seen = [];
      window.State = () => {
        const { status, data } = useLiveState(key, (value) => value[member.value]);
        return () => (seen.push(status.value), h('p', `${status.value} ${data.value}`));
      };
      show(State);
    });
    await text(page, 'ready a');
    await page.evaluate(() => (key.value = 'b'));
    await text(page, 'ready b');
    await page.evaluate(() => (member.value = 'b'));
    await text(page, 'ready 1');
    await page.evaluate(() => (key.value = null));
    await text(page, 'loading undefined');
    const sent = () => page.wire.sent.filter((op) => op === OP.subscribe || op === OP.unsubscribe);
    assert.deepEqual(sent(), [OP.subscribe, OP.subscribe]);
    await page.evaluate(() => {
      key.value = 'b';
      seen.length = 0;
      show(State);
    });
    await text(page, 'ready 1');
    assert.deepEqual(await page.evaluate(() => seen), ['ready']);
    assert.equal(sent().length, 2);
    // Another state than the one before is no error, and a refused one is told.
    await page.evaluate(() => (key.value = 'k'.repeat(300)));
    await text(page, 'refused undefined');
  });

  spec('what a server has rendered is shown for its key only', async (world) => {
    const page = await open(world);
    await page.evaluate(async () => {
      for (const id of [1, 2]) await client.rpc('setState', { key: `board:${id}`, value: { title: `live ${id}` } });
      const initial = { value: { title: 'rendered 1' }, epoch: 1, seq: 1 };
      window.id = Vue.ref(1);
      window.seen = [];
      show(() => {
        const { data } = useLiveState(() => `board:${id.value}`, (board) => board.title, { initial });
        return () => (seen.push([id.value, data.value]), h('p', String(data.value)));
      });
    });
    await text(page, 'live 1');
    await page.evaluate(() => (id.value = 2));
    await text(page, 'live 2');
    const seen = await page.evaluate(() => seen);
    assert.deepEqual(seen[0], [1, 'rendered 1']);
    assert.deepEqual(seen.filter(([id, data]) => id === 2 && data !== undefined && data !== 'live 2'), []);
  });

  spec('events, calls and the connection', async (world) => {
    const page = await open(world);
    await page.evaluate(() => {
      window.heard = [];
      window.missed = [];
      window.topic = Vue.ref('chat:message');
      window.told = [];
      show(() => {
        useEvent(topic, ({ data }) => heard.push(data), { onMissed: () => missed.push('chat') });
        useEvent('other', () => {}, { onMissed: () => missed.push('other') });
        const add = useMutation('add', { onSuccess: ({ sum }) => told.push(sum) });
        const failing = useMutation('fail', { onError: ({ message }) => told.push(message) });
        const { state, lost } = useConnection();
        Object.assign(window, { add, failing, call: useRpc('add') });
        return () => h('p', [state.value, lost.value, add.pending.value, add.data.value?.sum, failing.error.value?.message].join());
      });
    });
    await text(page, 'connected,false,false,,');
    assert.deepEqual(await page.evaluate(() => call({ a: 1, b: 2 })), { sum: 3 });
    await page.evaluate(() => (void failing.run(), add.run({ a: 3, b: 4 })));
    await text(page, 'connected,false,false,7,boom');
    await page.evaluate(() => (add.reset(), failing.reset()));
    await text(page, 'connected,false,false,,');
    assert.deepEqual((await page.evaluate(() => told)).sort(), [7, 'boom']);
    await page.evaluate(() => client.emit('chat:message', 1));
    await until(page, () => heard.length === 1);
    await page.evaluate(async () => {
      topic.value = null;
      client.emit('chat:message', 2);
      await client.rpc('echo', 1);
      topic.value = 'chat:message';
      client.emit('chat:message', 3);
    });
    await until(page, () => heard.length === 2);
    assert.deepEqual(await page.evaluate(() => heard), [1, 3]);
    assert.equal(page.wire.sent.filter((op) => op === OP.subscribe).length, 2);
    await world.server.kill();
    await world.server.restart();
    await until(page, () => missed.length === 2);
    assert.deepEqual((await page.evaluate(() => missed)).sort(), ['chat', 'other']);
  });

  spec('members, own presence, CRDTs and documents meet in two pages', async (world) => {
    const pages = [await open(world), await open(world)];
    for (const [index, page] of pages.entries()) {
      await page.evaluate((index) => {
        window.renders = 0;
        const Others = {
          setup() {
            const names = useMembers('lobby', (others) => others.map(({ value }) => value.name + value.x).join());
            return () => (renders++, h('p', `with ${names.value}`));
          },
        };
        show(() => {
          const { value: me, update } = useMyPresence('lobby', { name: `page${index}`, x: 0 });
          const { value: likes, crdt } = useCrdt('likes', 'pn-counter');
          const tags = useCrdt('tags', 'or-set');
          const notes = useDocument('notes');
          const pending = usePending();
          const words = Vue.ref('');
          notes.value.doc.on('update', () => (words.value = String(notes.value.doc.getText('text'))));
          Object.assign(window, { update, likes: crdt, notes, tags: tags.crdt, pending });
          return () => [
            h(Others),
            h('p', ` as ${me.value.name}${me.value.x} ${likes.value} likes ${tags.value.value} ${words.value} ${notes.value.synced}`),
          ];
        });
      }, index);
    }
    const [one, two] = pages;
    await text(one, 'with page10 as page00 0 likes   true');
    await text(two, 'with page00 as page10 0 likes   true');
    const before = await one.evaluate(() => renders);
    await one.evaluate(() => (update({ x: 5 }), likes.increment(2), tags.add('new'), notes.value.doc.getText('text').insert(0, 'hi')));
    await text(two, 'with page05 as page10 2 likes new hi true');
    await text(one, 'with page10 as page05 2 likes new hi true');
    assert.equal(await one.evaluate(() => renders), before, 'own presence renders nobody else');
    await until(one, () => pending.value.total === 0);
    await two.evaluate(() => app.unmount());
    await text(one, 'with  as page05 2 likes new hi true');
  });

  spec('10,000 mounts leave no handler, and plugins that are installed again no connection', async (world) => {
    const page = await open(world);
    const rest = await page.evaluate(async () => {
      const Row = {
        setup() {
          useEvent('chat:message', () => {});
          useConnection();
          usePending();
          useMembers('lobby');
          const { data } = useLiveState('dashboard', ({ visitors }) => visitors);
          return () => data.value;
        },
      };
      const begin = performance.now();
      for (let round = 0; round < 100; round++) show(() => () => Array.from({ length: 100 }, () => h(Row)));
      const millis = Math.round(performance.now() - begin);
      app.unmount();
      const { store, traffic } = client;
      return { millis, handlers: store.peek('dashboard')?.handlers.size ?? 0, watchers: store.watchers.size, traffic: typeof traffic };
    });
    console.log(`Vue, 10,000 mounts: ${JSON.stringify(rest)}`);
    assert.deepEqual([rest.handlers, rest.watchers, rest.traffic], [0, 0, 'undefined']);
    assert.equal(page.wire.sockets, 1);
  });
});
