//! What the core needs from JavaScript: options, a way to act, a clock, entropy.

use datasole_core::{Config, Millis, Reconnect, Seed, TokenVia};
use wasm_bindgen::prelude::*;

use crate::driver::World;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** How the core is configured; absent members take the core's defaults. Durations are in milliseconds. */
export interface CoreOptions {
  /** The endpoint: ws or wss, with its path. */
  url: string;
  token?: string;
  /** How a token reaches the server. */
  tokenVia?: 'url' | 'frame' | 'host';
  /** Ask for a token before every attempt (a `token` message, answered with `Core.token`). */
  askToken?: boolean;
  reconnect?: boolean;
  reconnectInterval?: number;
  maxReconnectAttempts?: number;
  connectTimeout?: number;
  /** The hash of the contract that the page was built with. */
  contract?: string;
  /** The deadline of what is sent without one of its own. */
  callTimeout?: number;
}

/** What the core does to the world. None of these may call back into the core before it returns. */
export interface CoreHost {
  /** Open a WebSocket; `protocols` are separated by commas. */
  open(socket: number, url: string, protocols: string): void;
  /** Send a binary message. The bytes are a view of wasm memory, valid until this returns. */
  send(socket: number, message: Uint8Array): void;
  /** Close a socket; nothing of it is wanted any more. */
  shut(socket: number, code: number, reason: string): void;
  /** Call `Core.timeout` after so many milliseconds, instead of what was asked before; negative: never. */
  arm(delay: number): void;
  /** The text of a batch being taken: a JSON array. */
  text(text: string): void;
  /** Bytes that messages of a batch being taken refer to: a view of wasm memory, valid until this returns. */
  bytes(bytes: Uint8Array): void;
  /**
   * There is something to `Core.take`. 1: pushed by the server, may wait for more; 2: somebody waits for it; 3: enough,
   * as soon as this call of the core has returned. Called again only when it gets more urgent.
   */
  soon(urgency: number): void;
  /** The core has panicked and must not be called again. */
  panicked(message: string): void;
}
"#;

#[wasm_bindgen]
extern "C" {
    /// The configuration, see `CoreOptions` in the type declarations.
    #[wasm_bindgen(typescript_type = "CoreOptions")]
    pub type Options;
    #[wasm_bindgen(method, getter)]
    fn url(this: &Options) -> String;
    #[wasm_bindgen(method, getter)]
    fn token(this: &Options) -> Option<String>;
    #[wasm_bindgen(method, getter, js_name = tokenVia)]
    fn token_via(this: &Options) -> Option<String>;
    #[wasm_bindgen(method, getter, js_name = askToken)]
    fn ask_token(this: &Options) -> Option<bool>;
    #[wasm_bindgen(method, getter)]
    fn reconnect(this: &Options) -> Option<bool>;
    #[wasm_bindgen(method, getter, js_name = reconnectInterval)]
    fn reconnect_interval(this: &Options) -> Option<f64>;
    #[wasm_bindgen(method, getter, js_name = maxReconnectAttempts)]
    fn max_reconnect_attempts(this: &Options) -> Option<f64>;
    #[wasm_bindgen(method, getter, js_name = connectTimeout)]
    fn connect_timeout(this: &Options) -> Option<f64>;
    #[wasm_bindgen(method, getter, js_name = callTimeout)]
    fn call_timeout(this: &Options) -> Option<f64>;
    #[wasm_bindgen(method, getter)]
    fn contract(this: &Options) -> Option<String>;

    /// What the core does to the world, see `CoreHost` in the type declarations.
    #[wasm_bindgen(typescript_type = "CoreHost")]
    #[derive(Clone)]
    pub type Host;
    #[wasm_bindgen(method, js_name = open)]
    fn host_open(this: &Host, socket: f64, url: &str, protocols: &str);
    #[wasm_bindgen(method, js_name = send)]
    fn host_send(this: &Host, socket: f64, message: &[u8]);
    #[wasm_bindgen(method, js_name = shut)]
    fn host_shut(this: &Host, socket: f64, code: u16, reason: &str);
    #[wasm_bindgen(method, js_name = arm)]
    fn host_arm(this: &Host, delay: f64);
    #[wasm_bindgen(method, js_name = text)]
    fn host_text(this: &Host, text: &str);
    #[wasm_bindgen(method, js_name = bytes)]
    fn host_bytes(this: &Host, bytes: &[u8]);
    #[wasm_bindgen(method, js_name = soon)]
    fn host_soon(this: &Host, urgency: u8);
    #[wasm_bindgen(method)]
    pub(crate) fn panicked(this: &Host, message: &str);

    #[wasm_bindgen(js_namespace = console)]
    fn warn(message: &str);
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn performance_now() -> f64;
    #[wasm_bindgen(js_namespace = crypto, js_name = getRandomValues)]
    fn get_random_values(bytes: &mut [u8]);
}

impl World for Host {
    fn open(&mut self, socket: f64, url: &str, protocols: &str) {
        self.host_open(socket, url, protocols);
    }

    fn send(&mut self, socket: f64, message: &[u8]) {
        self.host_send(socket, message);
    }

    fn shut(&mut self, socket: f64, code: u16, reason: &str) {
        self.host_shut(socket, code, reason);
    }

    fn arm(&mut self, delay: f64) {
        self.host_arm(delay);
    }

    fn text(&mut self, text: &str) {
        self.host_text(text);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.host_bytes(bytes);
    }

    fn soon(&mut self, urgency: u8) {
        self.host_soon(urgency);
    }

    fn warn(&mut self, message: &str) {
        warn(message);
    }
}

impl Options {
    /// The options as plain data.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            url: self.url(),
            token: self.token(),
            token_via: self.token_via(),
            ask_token: self.ask_token(),
            reconnect: self.reconnect(),
            reconnect_interval: self.reconnect_interval(),
            max_reconnect_attempts: self.max_reconnect_attempts(),
            connect_timeout: self.connect_timeout(),
            call_timeout: self.call_timeout(),
            contract: self.contract(),
        }
    }
}

/// `CoreOptions` as plain data.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The endpoint.
    pub url: String,
    /// The token.
    pub token: Option<String>,
    /// `url` (default), `frame` or `host`.
    pub token_via: Option<String>,
    /// Ask for a token before every attempt.
    pub ask_token: Option<bool>,
    /// Try again.
    pub reconnect: Option<bool>,
    /// The base of the backoff; milliseconds, as all times here.
    pub reconnect_interval: Option<f64>,
    /// Give up after so many failed attempts in a row.
    pub max_reconnect_attempts: Option<f64>,
    /// The longest time of an attempt.
    pub connect_timeout: Option<f64>,
    /// The deadline of calls without one of their own.
    pub call_timeout: Option<f64>,
    /// The hash of the contract that the page was built with.
    pub contract: Option<String>,
}

impl Settings {
    /// The core's configuration.
    pub fn config(self) -> Config {
        let mut config = Config::new(self.url);
        config.token = self.token;
        config.token_via = match self.token_via.as_deref() {
            Some("frame") => TokenVia::Frame,
            Some("host") => TokenVia::Host,
            _ => TokenVia::Url,
        };
        config.ask_token = self.ask_token.unwrap_or(false);
        let defaults = Reconnect::default();
        config.reconnect = Reconnect {
            enabled: self.reconnect.unwrap_or(defaults.enabled),
            base: self.reconnect_interval.map_or(defaults.base, |millis| millis as u64),
            max_attempts: self.max_reconnect_attempts.map(|attempts| attempts as u32),
            ..defaults
        };
        if let Some(millis) = self.connect_timeout {
            config.connect_timeout = millis as u64;
        }
        if let Some(millis) = self.call_timeout {
            config.call_timeout = millis as u64;
        }
        config.contract = self.contract;
        config
    }
}

/// The monotonic clock.
pub(crate) fn now() -> Millis {
    Millis(performance_now() as u64)
}

/// Entropy for one client.
pub(crate) fn seed() -> Seed {
    let mut seed = [0; 32];
    get_random_values(&mut seed);
    Seed(seed)
}
