/** The global `Datasole` of pages without modules. Set here: esbuild's way to do it costs 170 bytes of gzip. */
import { DatasoleClient, DatasoleError, ErrorCode } from './client.js';
import { CrdtStore, GCounter, GSet, LWWMap, LWWRegister, ORSet, PNCounter } from './crdt/index.js';

/** False in the slim script. */
declare const CRDTS: boolean;

const crdts = CRDTS ? { CrdtStore, GCounter, GSet, LWWMap, LWWRegister, ORSet, PNCounter } : {};
Object.assign(globalThis, { Datasole: { DatasoleClient, DatasoleError, ErrorCode, ...crdts } });
