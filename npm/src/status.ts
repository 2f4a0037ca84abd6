/** The status of a client. */

/** The connection, as {@link DatasoleClient.onStatus} shows it. */
export interface Status {
  state: ConnectionState;
  /** Connected: the protocol version spoken, 1 or 2. */
  protocol?: number;
  /** Connected with version 2: this connection's id on the server. */
  connectionId?: string;
  /** Connected with version 2: the user as the server knows it. */
  userId?: string;
  /** Connected with version 2: the server's clock when it greeted, Unix milliseconds. */
  serverTime?: number;
  /** Connected: whether the server's contract is {@link DatasoleClientOptions.contract}; absent where one is not known. */
  contract?: 'same' | 'differs';
  /** Reconnecting: the attempt under way or the next one; counted from 1. */
  attempt?: number;
  /** Reconnecting: how long until that attempt begins; absent while it is under way. */
  retryInMs?: number;
  /** The reason why there is no connection. */
  reason?: StatusReason;
}

/** The states of a connection. */
export type ConnectionState = 'disconnected' | 'connecting' | 'connected' | 'reconnecting';

/** The reason why there is no connection. */
export interface StatusReason {
  kind:
    | 'idle'
    | 'closedByUser'
    | 'closed'
    | 'connectTimeout'
    | 'halfOpen'
    | 'protocol'
    | 'unauthorized'
    | 'offline'
    | 'host'
    | 'unknown';
  /** For people; may be empty. */
  message: string;
  /** The WebSocket close code, where there was one. */
  code?: number;
  /** The HTTP status that refused the connection, where it could be seen. */
  httpStatus?: number;
  /** What may help; for people. */
  hint?: string;
}
