//! The commands for a server, and the meaning of their replies.

use std::time::{Duration, Instant};

use aperture_engine::engine::shared::{
    LeaveSlots, StoreError, StoreOperation, StoreReply, TokensMode,
};
use redis::{Cmd, Pipeline, Value};

use super::cache::CacheOperation;
use super::operation::{Operation, units_or_server};
use crate::leases::{MAX_HELD, Renewal, id_bytes};
use crate::scripts::{Script, pack};
use crate::shared::{Shared, lock};
use crate::stats::count;

/// The time for which a node counts after it was seen.
const NODE_LASTS: Duration = Duration::from_secs(10);
/// The most of a server's error that an engine is told, in characters.
const MAX_REASON_CHARS: usize = 200;

/// One request to a server, with one reply.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    /// The number of times that the request was sent again: to another node, or with its script.
    pub(crate) resent: u8,
    /// Sends the text of the script, because the server does not know its hash.
    pub(crate) whole_script: bool,
    /// The slot of the key is on its way to the node that this is sent to.
    pub(crate) asking: bool,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Operation(Operation),
    Cache(CacheOperation),
    Renew(Renewal),
    /// Records this node, and counts the nodes.
    Heartbeat,
    /// Removes this node.
    Goodbye,
    /// A probe of a server that was given up.
    Ping,
    /// Asks a node of a cluster which node has which keys.
    ClusterSlots,
}

/// The next step after a reply.
#[derive(Debug)]
pub(crate) enum Handled {
    Done,
    /// Sends the request to the same node again.
    Again(Request),
    /// The key is at another node, given as `host:port`.
    Moved(Request, String),
    /// The key is at another node for this request only.
    Ask(Request, String),
    /// This node cannot serve requests now.
    NotServing(Request),
}

impl From<Kind> for Request {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            resent: 0,
            whole_script: false,
            asking: false,
        }
    }
}

impl Request {
    /// The most times that a request is sent again.
    pub(crate) const MAX_RESENT: u8 = 3;

    pub(crate) fn operation(shared: &Shared, operation: StoreOperation, reply: StoreReply) -> Self {
        Self::from(Kind::Operation(Operation {
            operation,
            reply,
            submitted: Instant::now(),
            passed_in: shared.passed_in(),
        }))
    }

    /// Returns the key that a cluster routes the request by.
    pub(crate) fn key(&self, shared: &Shared) -> Option<String> {
        match &self.kind {
            Kind::Operation(Operation { operation, .. }) => match operation {
                StoreOperation::Take(take) => Some(shared.bucket_key(take.key)),
                StoreOperation::Enter(enter) => Some(enter.key.to_string()),
                StoreOperation::Leave(leave) => Some(leave.key.to_string()),
                _ => None,
            },
            Kind::Cache(operation) => Some(shared.cache_key(operation.key())),
            Kind::Renew(renewal) => Some(renewal.key.to_string()),
            Kind::Heartbeat | Kind::Goodbye => Some(shared.nodes_key()),
            Kind::Ping | Kind::ClusterSlots => None,
        }
    }

    /// Notes that the request is on its way. A slot that is returned is forgotten first, so that no
    /// renewal puts it back.
    pub(crate) fn begin(&self, shared: &Shared) {
        if let Kind::Operation(Operation { operation, .. }) = &self.kind
            && let StoreOperation::Leave(LeaveSlots { key, id }) = operation
        {
            lock(&shared.leases).release(*key, *id);
        }
    }

    /// Returns false if the request must not be sent any more: its flow was decided long ago, or
    /// this node holds too many slots. What is returned to the store is always sent.
    pub(crate) fn is_worth_sending(&self, shared: &Shared) -> bool {
        let (operation, submitted) = match &self.kind {
            Kind::Operation(Operation {
                operation,
                submitted,
                ..
            }) => (operation, submitted),
            Kind::Cache(operation) => return operation.is_worth_sending(shared),
            _ => return true,
        };
        let late = submitted.elapsed() > shared.settings.deadline;
        match operation {
            StoreOperation::Take(take) => {
                !late || take.tokens <= 0.0 || take.mode == TokensMode::Correct
            }
            StoreOperation::Enter(_) => !late && lock(&shared.leases).held() < MAX_HELD,
            _ => true,
        }
    }

    /// Adds the commands of the request to a pipeline.
    pub(crate) fn write(&self, shared: &Shared, hashes: &[String], pipeline: &mut Pipeline) {
        if self.asking {
            pipeline.cmd("ASKING").ignore();
        }
        let script = |script: Script, keys: &[String]| {
            let mut command = Cmd::new();
            match hashes.get(script.index()) {
                Some(hash) if !self.whole_script => command.arg("EVALSHA").arg(hash),
                _ => command.arg("EVAL").arg(script.text()),
            };
            command.arg(keys.len()).arg(keys);
            command
        };
        let command = match &self.kind {
            Kind::Operation(operation) => operation.command(shared, script),
            Kind::Cache(operation) => operation.command(shared),
            Kind::Renew(renewal) => {
                let mut command = script(Script::Renew, &shared.slots_keys(renewal.key));
                let numbers = [
                    units_or_server(shared, shared.passed_in()),
                    shared.lease_units(),
                    shared.keep_slots_ms(),
                ];
                command.arg(pack(numbers)).arg(&shared.node);
                command
                    .arg(shared.freed.channel())
                    .arg(renewal.key.as_bytes());
                let now = shared.now();
                let leases = lock(&shared.leases);
                // Not those that were returned since the renewal was queued.
                let held = renewal.slots.iter();
                for (id, slot) in held.filter(|(id, _)| leases.holds(renewal.key, *id)) {
                    let rest = shared.units(slot.until.saturating_sub(now));
                    command.arg(&id_bytes(*id)).arg(pack([slot.tokens, rest]));
                }
                command
            }
            Kind::Heartbeat => {
                let mut command = script(Script::Nodes, &[shared.nodes_key()]);
                command.arg(hex(shared.node));
                command.arg(NODE_LASTS.as_millis() as u64);
                command
            }
            Kind::Goodbye => {
                let mut command = Cmd::new();
                command
                    .arg("ZREM")
                    .arg(shared.nodes_key())
                    .arg(hex(shared.node));
                command
            }
            Kind::Ping => Cmd::ping(),
            Kind::ClusterSlots => {
                let mut command = Cmd::new();
                command.arg("CLUSTER").arg("SLOTS");
                command
            }
        };
        pipeline.add_command(command);
    }

    /// Handles the reply, unless it calls for more. `ClusterSlots` is not handled here.
    pub(crate) fn handle(self, shared: &Shared, reply: Value) -> Handled {
        let Value::ServerError(error) = reply else {
            self.succeed(shared, reply);
            return Handled::Done;
        };
        let details = error.details().unwrap_or_default();
        let address = || details.rsplit(' ').next().unwrap_or_default().to_owned();
        match error.code() {
            _ if self.resent >= Self::MAX_RESENT => self.fail(shared),
            "NOSCRIPT" => {
                return Handled::Again(Self {
                    resent: self.resent + 1,
                    whole_script: true,
                    ..self
                });
            }
            "MOVED" => return Handled::Moved(self, address()),
            "ASK" => return Handled::Ask(self, address()),
            "LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" => {
                return Handled::NotServing(self);
            }
            // The keys of a set are on two nodes while they move.
            "TRYAGAIN" => self.fail(shared),
            _ => {
                let reason: String = error.to_string().chars().take(MAX_REASON_CHARS).collect();
                shared.record_refusal(&reason);
                self.fail_with(shared, StoreError::Refused(reason));
            }
        }
        Handled::Done
    }

    fn succeed(self, shared: &Shared, value: Value) {
        match self.kind {
            Kind::Operation(operation) => operation.succeed(shared, &value),
            Kind::Cache(operation) => operation.succeed(shared, value),
            Kind::Renew(renewal) => {
                let Value::Array(returned) = value else {
                    return;
                };
                let mut leases = lock(&shared.leases);
                for (id, _) in renewal.slots {
                    let bytes = id_bytes(id);
                    let same =
                        |value: &Value| matches!(value, Value::BulkString(id) if *id == bytes);
                    if returned.iter().any(same) {
                        leases.release(renewal.key, id);
                    }
                }
            }
            Kind::Heartbeat => {
                if let Value::Int(nodes) = value {
                    let nodes = u32::try_from(nodes).unwrap_or(1);
                    let counter = &shared.counters.nodes;
                    counter.store(nodes, std::sync::atomic::Ordering::Relaxed);
                }
            }
            Kind::Goodbye | Kind::Ping | Kind::ClusterSlots => {}
        }
    }

    /// Completes an operation that the server did not answer.
    pub(crate) fn fail(self, shared: &Shared) {
        self.fail_with(shared, StoreError::Unavailable);
    }

    fn fail_with(self, shared: &Shared, error: StoreError) {
        match self.kind {
            Kind::Operation(Operation { reply, .. }) => {
                count(&shared.counters.errors, 1);
                reply.complete(Err(error));
            }
            Kind::Cache(operation) => operation.fail(shared, error),
            _ => {}
        }
    }
}

/// Returns the hexadecimal digits of a node's id.
fn hex(node: [u8; 8]) -> String {
    format!("{:016x}", u64::from_be_bytes(node))
}
