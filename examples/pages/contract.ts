// Written by datasole from the contract App. Changes belong there.
import type {} from 'datasole';

/** The contract App: give it to `DatasoleClient`, or let it register itself by importing this file. */
export interface AppContract {
  rpc: {
    vote: { params: Vote; result: Board };
  };
  events: {};
  direction: { up: never; down: never };
  state: {
    board: Board;
  };
  crdt: {};
  presence: {};
  docs: {};
}

export type Board = { title: string, votes: number, };

export type Vote = { by: number, };

/** Tells whether server and page were built from the same contract. */
export const contract = { name: 'App', hash: '652d5f8e1f8e9381' } as const;

declare module 'datasole' {
  interface Register {
    contract: AppContract;
  }
}
