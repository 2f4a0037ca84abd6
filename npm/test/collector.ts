/** What stays of things that nobody has any more. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { settled } from './fake-socket.js';

/** Collects garbage until what was registered is forgotten; the bytes that are left. */
export function collector(): () => Promise<number> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  return async () => {
    for (let times = 0; times < 6; times++) {
      collect();
      await settled();
    }
    return process.memoryUsage().heapUsed;
  };
}
