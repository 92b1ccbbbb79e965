//! The events that the driver waits for: connections, replies, and the ends of connections.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::AbortRegistration;
use futures_util::future::Abortable;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};

use super::request::{Kind, Request};
use crate::address::Address;
use crate::connect::{ConnectError, Opened, Serve};
use crate::shared::Shared;
use crate::stats::count;

/// After this time without a reply, beyond the deadline, a connection is given up.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// One connection of one node. A node's later connections have other numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkId {
    pub(super) node: usize,
    pub(super) number: u64,
}

/// An event that the driver waited for.
pub(super) enum Event {
    Connected(usize, Result<Opened, ConnectError>),
    Closed(LinkId),
    Answered(Answered),
    Subscribed(LinkId, bool),
}

/// The replies to the requests of one pipeline.
pub(super) struct Answered {
    pub(super) link: LinkId,
    pub(super) requests: Vec<Request>,
    /// One for each request; `None` if the connection failed.
    pub(super) replies: Option<Vec<Value>>,
    /// True if the replies came after the deadline.
    pub(super) late: bool,
}

/// Boxed once for each pipeline or connection.
pub(super) type Work = Pin<Box<dyn Future<Output = Event> + Send>>;

pub(super) fn connect(shared: Arc<Shared>, node: usize, address: Address) -> Work {
    Box::pin(async move {
        let opened = shared
            .settings
            .connector
            .open(&address, &shared.freed)
            .await;
        Event::Connected(node, opened)
    })
}

pub(super) fn serve(link: LinkId, serve: Serve, abort: AbortRegistration) -> Work {
    Box::pin(async move {
        // Aborted if the driver gives the connection up.
        let _ = Abortable::new(serve, abort).await;
        Event::Closed(link)
    })
}

pub(super) fn subscribe(
    shared: Arc<Shared>,
    link: LinkId,
    mut connection: MultiplexedConnection,
) -> Work {
    Box::pin(async move {
        let subscribing = connection.subscribe(shared.freed.channel());
        let subscribed = tokio::time::timeout(REPLY_TIMEOUT, subscribing).await;
        Event::Subscribed(link, matches!(subscribed, Ok(Ok(()))))
    })
}

/// Sends requests in one write and waits for their replies.
pub(super) fn send(
    shared: Arc<Shared>,
    link: LinkId,
    mut connection: MultiplexedConnection,
    hashes: &[String],
    requests: Vec<Request>,
) -> Work {
    let mut pipeline = Pipeline::with_capacity(requests.len());
    for request in &requests {
        request.write(&shared, hashes, &mut pipeline);
    }
    Box::pin(async move {
        let count_of_replies = pipeline.len();
        let mut answer = pin!(connection.send_packed_commands(&pipeline, 0, count_of_replies));
        let mut late = false;
        let answer = match tokio::time::timeout(shared.settings.deadline, &mut answer).await {
            Ok(answer) => Some(answer),
            Err(_) => {
                late = true;
                let operations = requests.iter();
                let operations =
                    operations.filter(|r| matches!(r.kind, Kind::Operation(_) | Kind::Cache(_)));
                count(&shared.counters.late, operations.count());
                shared.record_failure("its replies are late");
                tokio::time::timeout(REPLY_TIMEOUT, answer).await.ok()
            }
        };
        let replies = answer.and_then(Result::ok).map(|mut replies| {
            // `ASKING` has a reply of its own.
            let mut asking = requests.iter().flat_map(|request| {
                let own = request.asking.then_some(false);
                own.into_iter().chain([true])
            });
            replies.retain(|_| asking.next().unwrap_or(true));
            replies
        });
        Event::Answered(Answered {
            link,
            replies: replies.filter(|replies| replies.len() == requests.len()),
            requests,
            late,
        })
    })
}
