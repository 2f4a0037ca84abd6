// The baseline of a worker: one with a connection of its own to the same server, that follows the same topic, inflates what
// comes, counts the events in it and hands nothing to the page. Without inflating it is what no worker can do without.

import { unzlibSync } from '/fflate.js';

const [EVENT, HELLO, SUBSCRIBE, SUBSCRIBED, UNSUBSCRIBE, CLIENT, BATCH, ENTRY] = [0x04, 0x10, 0x13, 0x14, 0x15, 0x1c, 0x1d, 0x30];
const HEADER = 9;
/** The first byte of a zlib stream: an event here, the only long frame that comes behind the first. */
const ZLIB = 0x78;

let socket;
let correlation = 0;
let left;
let inflates;

onmessage = ({ data: { url, topic, count, inflate } }) => {
  if (url) {
    socket = new WebSocket(url, ['datasole.v2']);
    socket.binaryType = 'arraybuffer';
    socket.onmessage = ({ data }) => take(new Uint8Array(data));
  } else {
    left = count;
    inflates = inflate;
    send(SUBSCRIBE, ++correlation, { kind: 'event', key: topic });
  }
};

function take(message) {
  if (message[0] === ZLIB && inflates) message = unzlibSync(message);
  const opcode = message[0];
  if (opcode === EVENT || opcode === ENTRY || opcode === ZLIB) {
    if (--left > 0) return;
    send(UNSUBSCRIBE, correlation, null);
    postMessage('counted');
  } else if (opcode === BATCH) {
    for (let at = HEADER; at < message.length; ) {
      let length = 0;
      for (let shift = 0; ; shift += 7) {
        const byte = message[at++];
        length |= (byte & 0x7f) << shift;
        if (byte < 0x80) break;
      }
      take(message.subarray(at, (at += length)));
    }
  } else if (opcode === HELLO) {
    send(CLIENT, 0, { features: ['batch', 'short'] });
    postMessage('connected');
  } else if (opcode === SUBSCRIBED) postMessage('following');
}

function send(opcode, correlation, payload) {
  const body = new TextEncoder().encode(JSON.stringify(payload));
  const frame = new Uint8Array(HEADER + body.length);
  const header = new DataView(frame.buffer);
  header.setUint8(0, opcode);
  header.setUint32(1, correlation);
  header.setUint32(5, body.length);
  frame.set(body, HEADER);
  socket.send(frame);
}
