/** The CRDTs. */
export { GCounter, PNCounter, type CounterVector } from './counter.js';
export { Crdt, type CrdtOperation, type CrdtState, type CrdtType, type Dot, type Stamp } from './crdt.js';
export { LWWMap, LWWRegister } from './lww.js';
export { GSet, ORSet } from './set.js';
export type { CrdtStorage } from '../options.js';
export { CrdtStore, type CrdtClasses, type Crdts } from './store.js';
