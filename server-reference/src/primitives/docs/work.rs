//! Work on a document: light work is done at once, the rest off the async workers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    document::Document,
    error::DocError,
    shared::{self, Shared},
    update,
};
use crate::{
    account::Standing,
    desk::thread_time,
    hub::{self, Hub, Stream, Writer},
};

/// The cost ([`Document::cost`]) of work that takes two milliseconds at most.
const LIGHT: usize = 16 * 1024;
/// That of an update of a document that is trusted to be quick: thirty milliseconds, once.
const TRUSTED: usize = 16 * LIGHT;

/// On what the time of work depends.
#[derive(Debug)]
pub(super) enum Size {
    /// An update.
    Update(Bytes),
    /// The bytes of a question, or of nothing.
    Other(usize),
}

/// The outcome of work.
pub(super) struct Done<R> {
    /// Still held, so that what follows from the result is next.
    pub(super) writer: Writer,
    pub(super) result: R,
    /// The processor time that it took; zero for light work.
    pub(super) took: Duration,
}

/// Works on a document. A change, by `owner` unless by the server, is pending afterwards. Work that has begun is done to its
/// end, whoever waits for it.
pub(super) async fn work<R: Send + 'static>(
    hub: &Hub,
    stream: &Arc<Stream>,
    writer: Writer,
    owner: Option<&Arc<Standing>>,
    size: Size,
    work: impl FnOnce(&mut Document) -> R + Send + 'static,
) -> Result<Done<R>, DocError> {
    let is_update = matches!(size, Size::Update(_));
    let units = match size {
        Size::Update(update) => update::effort(&update),
        Size::Other(bytes) => bytes / 16 + 1,
    };
    let (cost, is_trusted) = stream.with_content(|content| {
        let document = super::shared(content)?.document()?;
        Ok::<_, DocError>((document.cost(units), is_update && document.habit.is_quick()))
    })?;
    if cost <= LIGHT {
        return on_loan(stream, writer, owner, |document| (work(document), Duration::ZERO));
    }
    let timed = move |document: &mut Document| {
        let begun = thread_time();
        let result = work(document);
        let took = thread_time().saturating_sub(begun);
        if is_update {
            document.habit.learn(took);
        }
        (result, took)
    };
    if is_trusted && cost <= TRUSTED {
        return on_loan(stream, writer, owner, timed);
    }
    let (own, by, lane) = (stream.clone(), owner.cloned(), owner.map_or(0, |owner| owner.lane));
    hub.desk().run(lane, move || on_loan(&own, writer, by.as_ref(), timed)).await
}

/// Borrows the document meanwhile: the stream stays free for those who follow it.
fn on_loan<R>(
    stream: &Stream,
    writer: Writer,
    owner: Option<&Arc<Standing>>,
    work: impl FnOnce(&mut Document) -> (R, Duration),
) -> Result<Done<R>, DocError> {
    let document = stream.with_content(|content| super::shared(content)?.lend())?;
    let mut loan = Loan { stream, owner, document: Some(document) };
    let document = loan.document.as_mut().ok_or(DocError::Damaged)?;
    let (result, took) = work(document);
    drop(loan);
    Ok(Done { writer, result, took })
}

/// A document that is given back when dropped.
struct Loan<'a> {
    stream: &'a Stream,
    owner: Option<&'a Arc<Standing>>,
    document: Option<Box<Document>>,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let mut next = self.document.take();
        while let Some(document) = next {
            let back = |content: &mut dyn hub::Kind| hub::of::<Shared>(content)?.take_home(document, self.owner);
            let Some((document, since)) = self.stream.with_content(back) else { return };
            next = take_all(document, &since, &self.stream.id().key);
        }
    }
}

/// Has a document take stored updates. One that cannot is not given back: it is found damaged, and loaded again.
pub(super) fn take_all(mut document: Box<Document>, updates: &[Bytes], key: &str) -> Option<Box<Document>> {
    let mut take = |update: &Bytes| {
        if document.is_pending(update) {
            document.settle();
            return Ok(());
        }
        document.take(update)
    };
    if let Err(error) = updates.iter().try_for_each(&mut take) {
        tracing::error!(%error, key, "a stored update cannot be applied");
        return None;
    }
    Some(document)
}

/// Lets the backend keep a snapshot in place of the updates so far, if there are enough of them.
pub(super) async fn compact(hub: &Hub, stream: &Arc<Stream>) {
    let due = || stream.with::<Shared, Option<(usize, usize)>>(|shared| shared.due());
    if due().is_none() {
        return;
    }
    let writer = stream.writer().await;
    // Content that others add meanwhile may be in the snapshot, too: it has no effect twice.
    let at = stream.mark();
    let Some(since) = due() else { return };
    let kept = match work(hub, stream, writer, None, Size::Other(0), Document::compact).await {
        Ok(Done { writer: _writer, result: Ok(snapshot), .. }) => {
            let snapshot = (at, shared::entry(&snapshot).bytes().clone());
            hub.keep_snapshot(stream, snapshot, since).await.map_err(DocError::from)
        }
        Ok(Done { result: Err(error), .. }) | Err(error) => Err(error),
    };
    if let Err(error) = kept {
        // All is stored; the backend only holds more than it must.
        tracing::error!(%error, key = stream.id().key, "a document could not be compacted");
    }
}

/// Loads a document that was found damaged.
pub(super) async fn heal<R>(hub: &Arc<Hub>, stream: &Arc<Stream>, outcome: Result<R, DocError>) -> Result<R, DocError> {
    if let Err(DocError::Damaged) = outcome {
        let _writer = stream.writer().await;
        hub.reload(stream).await?;
    }
    outcome
}
