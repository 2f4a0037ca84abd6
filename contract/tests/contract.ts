// Written by datasole from the contract App. Changes belong there.
import type {} from 'datasole';

/** The contract App: give it to `DatasoleClient`, or let it register itself by importing this file. */
export interface AppContract {
  rpc: {
    list: { params: List; result: Page<User> };
    /** Finds a user. */
    'user.get': { params: GetUser; result: User; error: NoSuchUser };
    vote: { params: Vote; result: void };
  };
  events: {
    /**
     * Something is wrong.
     * Look at once.
     */
    alert: Alert;
    'chat:message': ChatMessage;
    typing: Typing;
  };
  direction: { up: 'chat:message' | 'typing'; down: 'alert' | 'chat:message' };
  state: {
    /** One board of many. */
    [key: `board:${string}:${string}`]: Board;
    dashboard: Board;
  };
  crdt: {
    likes: 'pn-counter';
    [key: `todo:${string}`]: { type: 'or-set'; value: Cell };
  };
  presence: {
    lobby: Cursor;
  };
  docs: {
    [key: `notes:${string}`]: true;
  };
}

export type Alert = { level: [number, string], };

export type Board = { title: string, rows: { [key in number]: Array<Cell> }, };

export type Cell = string;

export type ChatMessage = { text: string, };

export type Cursor = { x: number, y: number, };

/**
 * Asks for a user.
 */
export type GetUser = { 
/**
 * The user's number.
 */
id: number, fields?: Array<string>, };

export type JsonValue = number | string | boolean | Array<JsonValue> | { [key in string]: JsonValue } | null;

export type List = { after: string | null, };

export type NoSuchUser = { id: number, };

export type Page<T> = { items: Array<T>, next: string | null, };

export type Role = { "kind": "admin", since: number, } | { "kind": "guest" };

export type Typing = Record<symbol, never>;

export type User = { displayName: string, created: number, role: Role, tags: { [key in string]: boolean }, extra: JsonValue, };

export type Vote = { option: number, };

/** Tells whether server and page were built from the same contract. */
export const contract = { name: 'App', hash: '912627a090f33540' } as const;

declare module 'datasole' {
  interface Register {
    contract: AppContract;
  }
}
