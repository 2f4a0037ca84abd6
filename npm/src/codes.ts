/** The numbers of `ErrorCode` that this package gives itself: the compiler inlines them, so that programs that do not use the list do not carry it. */
export const enum Code {
  InvalidRequest = -32600,
  InvalidParams = -32602,
  Unauthorized = -32001,
  Timeout = -32100,
  Cancelled = -32102,
  NotConnected = -32103,
  Closed = -32104,
  LocalLimit = -32105,
  Host = -32106,
}
