//! Simulates a TCP link between a client and an agent that delays every byte and can fail.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Maximum number of reads in transit in one direction. At the maximum, reading stops.
const MAX_IN_TRANSIT: usize = 1024;

/// How the link handles bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Traffic {
    Passes,
    /// The link accepts connections, and holds bytes until traffic passes again.
    Waits,
    /// The link accepts connections and drops bytes. A connection that has lost bytes stays dead
    /// when traffic passes again; new connections work.
    Vanishes,
}

#[derive(Clone, Copy)]
struct State {
    /// The address that connections lead to; `None` refuses connections.
    target: Option<SocketAddr>,
    traffic: Traffic,
    /// The number of cuts. Each cut closes all earlier connections.
    cuts: u32,
}

/// A listening port that leads to an agent. Dropping it closes all connections.
pub(crate) struct Link {
    address: SocketAddr,
    state: watch::Sender<State>,
    /// A bound socket that does not listen. It reserves the port while connections are refused.
    _reserved: TcpSocket,
}

impl Link {
    /// Creates a link that refuses connections until it is [connected](Self::connect_to) to an
    /// address. It runs in the runtime of `handle`, and delays bytes by `delay` in each direction.
    pub(crate) fn new(handle: &Handle, delay: Duration) -> Self {
        let _runtime = handle.enter();
        let reserved = bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let address = reserved.local_addr().expect("an address");
        let (state, watched) = watch::channel(State {
            target: None,
            traffic: Traffic::Passes,
            cuts: 0,
        });
        handle.spawn(accept(address, watched, delay));
        Self {
            address,
            state,
            _reserved: reserved,
        }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections to this address, and keeps open connections.
    pub(crate) fn connect_to(&self, target: SocketAddr) {
        self.state.send_modify(|state| state.target = Some(target));
    }

    /// Refuses new connections, and keeps open connections.
    pub(crate) fn refuse(&self) {
        self.state.send_modify(|state| state.target = None);
    }

    /// Lets traffic pass.
    pub(crate) fn pass(&self) {
        let passes = |state: &mut State| state.traffic = Traffic::Passes;
        self.state.send_modify(passes);
    }

    /// Holds all bytes until traffic passes again.
    pub(crate) fn hang(&self) {
        let waits = |state: &mut State| state.traffic = Traffic::Waits;
        self.state.send_modify(waits);
    }

    /// Drops all bytes until traffic passes again.
    pub(crate) fn black_hole(&self) {
        let vanishes = |state: &mut State| state.traffic = Traffic::Vanishes;
        self.state.send_modify(vanishes);
    }

    /// Closes all connections, and loses the bytes in transit.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }
}

/// Binds a port that a socket which does not listen may already hold.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(address: SocketAddr, mut state: watch::Receiver<State>, delay: Duration) {
    let mut listener: Option<TcpListener> = None;
    loop {
        let now = *state.borrow_and_update();
        match now.target {
            None => listener = None,
            Some(_) if listener.is_none() => {
                let socket = bind(address).expect("the port is reserved");
                listener = Some(socket.listen(1024).expect("the port is reserved"));
            }
            Some(_) => {}
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accepted => {
                // A listener exists only while there is a target.
                if let (Ok((client, _)), Some(target)) = (accepted, now.target) {
                    tokio::spawn(connect(client, target, state.clone(), delay));
                }
            }
            changed = state.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

async fn connect(
    client: TcpStream,
    target: SocketAddr,
    state: watch::Receiver<State>,
    delay: Duration,
) {
    // If the agent is unreachable, dropping `client` closes its connection.
    let Ok(agent) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), agent.set_nodelay(true));
    // The TCP handshake takes one round trip.
    let open_at = Instant::now() + 2 * delay;
    let (client_reads, client_writes) = client.into_split();
    let (agent_reads, agent_writes) = agent.into_split();
    let pump = |state: &watch::Receiver<State>| Pump {
        cuts_at_start: state.borrow().cuts,
        state: state.clone(),
        in_transit: VecDeque::new(),
        open_at,
        delay,
    };
    tokio::join!(
        pump(&state).run(client_reads, agent_writes),
        pump(&state).run(agent_reads, client_writes),
    );
}

/// One direction of a connection.
struct Pump {
    state: watch::Receiver<State>,
    cuts_at_start: u32,
    /// Bytes and when to deliver them; `None` is the end of the stream.
    in_transit: VecDeque<(Instant, Option<Bytes>)>,
    open_at: Instant,
    delay: Duration,
}

impl Pump {
    async fn run(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = BytesMut::new();
        let (mut ended, mut lost) = (false, false);
        loop {
            let State { traffic, cuts, .. } = *self.state.borrow_and_update();
            if cuts != self.cuts_at_start {
                return;
            }
            if traffic == Traffic::Vanishes {
                lost = true;
                self.in_transit.clear();
            }
            let passes = traffic == Traffic::Passes && !lost;
            let reads = !ended && (lost || passes && self.in_transit.len() < MAX_IN_TRANSIT);
            let due = self
                .in_transit
                .front()
                .filter(|_| passes)
                .map(|(at, _)| *at);
            buffer.reserve(64 * 1024);
            tokio::select! {
                changed = self.state.changed() => if changed.is_err() {
                    return;
                },
                read = from.read_buf(&mut buffer), if reads => {
                    ended = !read.is_ok_and(|bytes| bytes > 0);
                    let bytes = buffer.split().freeze();
                    if !lost {
                        let at = self.open_at.max(Instant::now()) + self.delay;
                        self.in_transit.push_back((at, (!ended).then_some(bytes)));
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let Some((_, Some(bytes))) = self.in_transit.pop_front() else {
                        let _ = to.shutdown().await;
                        return;
                    };
                    if to.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
