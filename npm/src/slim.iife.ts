/** The global `Datasole` without CRDTs, which names the script that has them. */
import { DatasoleClient as SlimClient, DatasoleError, ErrorCode } from './slim.js';

class DatasoleClient extends SlimClient {
  get crdt(): never {
    return this.registerCrdt();
  }

  registerCrdt(): never {
    throw new Error('datasole.slim.iife.min.js has no CRDTs: load datasole.iife.min.js');
  }
}

Object.assign(globalThis, { Datasole: { DatasoleClient, DatasoleError, ErrorCode } });
