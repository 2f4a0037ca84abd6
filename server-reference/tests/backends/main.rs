//! Engines that are servers of their own pass the conformance suite. Each is started on a free port in a temporary
//! folder, and stopped.

mod redis;
mod running;
