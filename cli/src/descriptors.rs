//! File descriptors: each connection takes one, and systems let a program have few unless it asks for more.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors of other things than connections: files, storage, sockets that speak HTTP.
const OTHERS: u64 = 256;

/// Takes as many as the administrator allows; says so where that is too few for all connections.
pub(crate) fn raise(connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum;
    if limit.current != allowed {
        limit.current = allowed;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of descriptors was not raised");
        }
    }
    let limit = getrlimit(Resource::Nofile).current;
    let wanted = connections as u64 + OTHERS;
    if let Some(limit) = limit.filter(|limit| *limit < wanted) {
        tracing::warn!(
            "the system allows {limit} descriptors, {connections} connections need {wanted}: raise it (ulimit -n, \
             LimitNOFILE=), or lower --max-connections"
        );
    }
}
