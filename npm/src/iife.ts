/** The global `Datasole` of pages without modules. Set here: esbuild's way to do it costs 170 bytes of gzip. */
import { CrdtStore, DatasoleClient, DatasoleError, ErrorCode, GCounter, GSet, LWWMap, LWWRegister, ORSet, PNCounter } from './client.js';

const crdts = { CrdtStore, GCounter, GSet, LWWMap, LWWRegister, ORSet, PNCounter };
Object.assign(globalThis, { Datasole: { DatasoleClient, DatasoleError, ErrorCode, ...crdts } });
