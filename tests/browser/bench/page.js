// The page that is measured: datasole's client, and beside it two bare workers and `JSON.parse`. Commands come one at a time.

let client;
let bare;
/** The worker that inflates and counts. */
let counter;
/** Resolves once it has said something; what that was. */
let said;
/** What the bare worker's messages are given to. */
let receive;
let texts = [];

const control = new WebSocket(`ws://${location.host}/control`);
control.onmessage = async ({ data }) => {
  const { id, command, argument } = JSON.parse(data);
  const answer = (part) => control.send(JSON.stringify({ id, ...part }));
  try {
    answer({ value: await commands[command](argument) });
  } catch (error) {
    answer({ error: String(error?.stack ?? error) });
  }
};

/** Does what the last command has prepared; resolves at its end. */
let run;

const commands = {
  async connect(url) {
    client = new Datasole.DatasoleClient({ url, workerUrl: '/datasole-worker.v3.js' });
    await client.connect();
  },

  startBare() {
    bare = new Worker('/bare.js', { name: 'bare' });
    return new Promise((resolve) => {
      bare.onmessage = ({ data }) => {
        const messages = JSON.parse(data);
        if (!messages.length) return resolve();
        for (const message of messages) receive(message);
      };
    });
  },

  async startCounting(url) {
    counter = new Worker('/counting.js', { name: 'counting', type: 'module' });
    counter.onmessage = ({ data }) => said(data);
    counter.onerror = ({ message }) => said(message ?? 'no script');
    await hear('connected', { url });
  },

  /** Does what the last command has prepared; returns the batches that came meanwhile. */
  async run() {
    await run();
    return batches;
  },

  nothing() {
    run = () => {};
  },

  /** Events of the client. */
  async events({ topic, count }) {
    expect((resolve) => {
      const handler = counting(count, () => {
        client.off(topic, handler);
        resolve();
      });
      client.on(topic, handler);
    });
    // Answered behind the subscription.
    await client.rpc('echo');
    batches = [];
  },

  /** The same of the bare worker. */
  bareEvents({ count }) {
    expect((resolve) => (receive = counting(count, resolve)));
  },

  /** The same, of the worker that counts. */
  async countedEvents(asked) {
    await hear('following', asked);
    const counted = hear('counted');
    run = () => counted;
  },

  texts(given) {
    texts = given;
  },

  /** What no client can do without. */
  parse({ count }) {
    run = () => {
      const handler = counting(count, () => {});
      for (let n = 0; n < count; n++) handler({ data: JSON.parse(texts[n % texts.length]) });
    };
  },

  async follow(key) {
    client.subscribeState(key, () => {});
    while (!client.getState(key)) await new Promise((resolve) => setTimeout(resolve, 20));
  },

  /** So many changes of the first row's cell. */
  async patches({ key, count }) {
    const target = client.getState(key).rows[0].n + count;
    expect((resolve) => {
      const { unsubscribe } = client.subscribeState(key, ({ rows }) => {
        if (rows[0].n < target) return;
        queueMicrotask(unsubscribe);
        resolve();
      });
    });
    await client.rpc('echo');
    batches = [];
  },

  /** The same of the bare worker, which are parsed and not applied. */
  barePatches({ count }) {
    expect((resolve) => {
      let left = count;
      receive = ({ ops }) => ops.length === 1 && --left === 0 && resolve();
    });
  },

  /** The same on the same state by deep clone and fast-json-patch. */
  clones({ key, count }) {
    run = () => {
      let state = client.getState(key);
      for (let n = 1; n <= count; n++) {
        const patch = [{ op: 'replace', path: '/rows/0/n', value: n }];
        state = jsonpatch.applyPatch(jsonpatch.deepClone(state), patch).newDocument;
      }
      if (state.rows[0].n !== count) throw new Error('a patch is missing');
    };
  },
};

/** Tells the worker that counts something, if anything, and waits for what it says. */
async function hear(expected, message) {
  const heard = new Promise((resolve) => (said = resolve));
  if (message) counter.postMessage(message);
  const word = await heard;
  if (word !== expected) throw new Error(`it is ${word} instead of ${expected}`);
}

/** Prepares waiting for what comes from workers. */
function expect(listen) {
  const came = new Promise(listen);
  run = () => came;
}

/** A handler that looks at each event's data, and tells when all have come. */
function counting(count, resolve) {
  let left = count;
  return ({ data }) => {
    if (!data.rows.length) throw new Error('an event without data');
    if (--left === 0) resolve();
  };
}
