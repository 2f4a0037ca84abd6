//! The thread that owns the connection, and commits whatever has queued up for it in one transaction.

use std::{
    io,
    thread::{self, JoinHandle},
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{super::error::BackendError, file};

/// Jobs that may wait; the caller of one more waits to hand it over.
const QUEUE: usize = 1_024;
/// Jobs of one transaction, at most: the first of them waits for the last.
const BATCH: usize = 256;

/// A handle to the thread. Dropping it waits until what is queued is stored and the file is closed.
#[derive(Debug)]
pub(super) struct Thread {
    /// Taken when dropped: the thread ends when nobody can bring it jobs any more.
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    handle: Option<JoinHandle<()>>,
}

/// Something to do with the database. May be run again, in another transaction, before the outcome is told.
pub(super) trait Job: Send {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;

    /// Learns whether the transaction was committed. Jobs finish in the order of the database.
    fn finish(self: Box<Self>, outcome: Result<(), BackendError>);
}

struct Call<T, F> {
    work: F,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, BackendError>>,
}

impl<T: Send, F: FnMut(&Connection) -> rusqlite::Result<T> + Send> Job for Call<T, F> {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.result = Some((self.work)(connection)?);
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), BackendError>) {
        let Self { result, reply, .. } = *self;
        // A caller that no longer waits does not want to know.
        let _ = reply.send(outcome.and_then(|()| result.ok_or_else(gone)));
    }
}

pub(super) fn gone() -> BackendError {
    BackendError::Unavailable("the thread that stores has ended".into())
}

impl Thread {
    pub(super) fn start(connection: Connection) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let handle = thread::Builder::new().name("datasole-sqlite".into()).spawn(move || serve(connection, queue))?;
        Ok(Self { jobs: Some(jobs), handle: Some(handle) })
    }

    /// Has `work` done, and returns when the change is committed.
    pub(super) async fn call<T, F>(&self, work: F) -> Result<T, BackendError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, outcome) = oneshot::channel();
        self.submit(Box::new(Call { work, result: None, reply })).await?;
        outcome.await.map_err(|_| gone())?
    }

    /// Queues a job.
    pub(super) async fn submit(&self, job: Box<dyn Job>) -> Result<(), BackendError> {
        self.jobs.as_ref().ok_or_else(gone)?.send(job).await.map_err(|_| gone())
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.jobs.take();
        if self.handle.take().is_some_and(|handle| handle.join().is_err()) {
            tracing::error!("the thread that stores has panicked");
        }
    }
}

fn serve(mut connection: Connection, mut queue: mpsc::Receiver<Box<dyn Job>>) {
    let mut jobs = Vec::new();
    while queue.blocking_recv_many(&mut jobs, BATCH) > 0 {
        if transact(&mut connection, &mut jobs).is_ok() {
            jobs.drain(..).for_each(|job| job.finish(Ok(())));
            continue;
        }
        // One of them is the cause, or the disk: each by itself, so that it fails only those that it must.
        for mut job in jobs.drain(..) {
            let outcome = transact(&mut connection, std::slice::from_mut(&mut job));
            job.finish(outcome.map_err(|error| file::failure(&error)));
        }
    }
    if let Err(error) = file::close(connection) {
        tracing::error!(%error, "the database was not closed cleanly");
    }
}

/// Runs the jobs in one transaction: all of them happen, or none.
fn transact(connection: &mut Connection, jobs: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    jobs.iter_mut().try_for_each(|job| job.run(&transaction))?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs these inserts as one batch: which of them succeed, and what the table holds then.
    fn check(values: &[i64], stored: &[i64]) {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (a INTEGER CHECK (a > 0)); CREATE TABLE meta (name TEXT)").unwrap();
        let (jobs, queue) = mpsc::channel::<Box<dyn Job>>(QUEUE);
        let replies: Vec<_> = values
            .iter()
            .map(|&value| {
                let (reply, outcome) = oneshot::channel();
                let work = move |connection: &Connection| connection.execute("INSERT INTO t VALUES (?1)", [value]);
                assert!(jobs.try_send(Box::new(Call { work, result: None, reply })).is_ok());
                outcome
            })
            .collect();
        let (seen, held) = oneshot::channel();
        let work = |connection: &Connection| {
            let mut query = connection.prepare("SELECT a FROM t")?;
            query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()
        };
        assert!(jobs.try_send(Box::new(Call { work, result: None, reply: seen })).is_ok());
        drop(jobs);
        serve(connection, queue);
        for (value, mut reply) in values.iter().zip(replies) {
            assert_eq!(reply.try_recv().unwrap().is_ok(), *value > 0, "{value}");
        }
        assert_eq!(held.blocking_recv().unwrap().unwrap(), stored);
    }

    #[test]
    fn a_failure_fails_nobody_else() {
        check(&[1, 2, 3], &[1, 2, 3]);
        check(&[1, -2, 3], &[1, 3]);
        check(&[-1], &[]);
    }

    #[test]
    fn more_than_a_batch_is_carried_out_in_order() {
        let many: Vec<i64> = (1..=3 * BATCH as i64 + 1).collect();
        check(&many, &many);
    }
}
