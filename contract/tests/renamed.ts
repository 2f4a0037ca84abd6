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

export type Board = { heading: string, votes: number, };

export type Vote = { by: number, };

/** Tells whether server and page were built from the same contract. */
export const contract = { name: 'App', hash: '6ec1b69e61bb6b49' } as const;

declare module 'datasole' {
  interface Register {
    contract: AppContract;
  }
}
