//! A TCP link between a client and an agent, which delays every byte and can fail.

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

/// Reads of one direction that may be on their way; a reader waits beyond that.
const MOST_ON_THE_WAY: usize = 1024;

/// What becomes of bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Traffic {
    Passes,
    /// Connections are accepted, and bytes wait until the traffic passes again.
    Waits,
    /// Connections are accepted, and bytes are dropped. A connection that was open meanwhile has
    /// lost bytes, so it stays dead afterwards; new ones work.
    Vanishes,
}

#[derive(Clone, Copy)]
struct State {
    /// Where connections lead; `None` refuses them.
    to: Option<SocketAddr>,
    traffic: Traffic,
    /// Connections made before the last cut are closed.
    cuts: u32,
}

/// A listening port that leads to an agent. Dropping it closes all connections.
pub(crate) struct Link {
    address: SocketAddr,
    state: watch::Sender<State>,
    /// Bound but not listening: nobody else gets the port while connections are refused.
    _reserved: TcpSocket,
}

impl Link {
    /// Makes a link that refuses connections until it [leads](Self::lead_to) somewhere. It runs in
    /// the runtime of `handle`, and delays bytes by `delay` each way.
    pub(crate) fn new(handle: &Handle, delay: Duration) -> Self {
        let _runtime = handle.enter();
        let reserved = bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let address = reserved.local_addr().expect("an address");
        let (state, watched) = watch::channel(State {
            to: None,
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

    /// New connections lead to this address; those that are open are left alone.
    pub(crate) fn lead_to(&self, to: SocketAddr) {
        self.state.send_modify(|state| state.to = Some(to));
    }

    /// New connections are refused; those that are open are left alone.
    pub(crate) fn refuse(&self) {
        self.state.send_modify(|state| state.to = None);
    }

    pub(crate) fn pass(&self) {
        let passes = |state: &mut State| state.traffic = Traffic::Passes;
        self.state.send_modify(passes);
    }

    pub(crate) fn hang(&self) {
        let waits = |state: &mut State| state.traffic = Traffic::Waits;
        self.state.send_modify(waits);
    }

    pub(crate) fn black_hole(&self) {
        let vanishes = |state: &mut State| state.traffic = Traffic::Vanishes;
        self.state.send_modify(vanishes);
    }

    /// Closes all connections; what is on its way is lost.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }
}

/// The port may be bound again while a socket that does not listen holds it.
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
        match now.to {
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
                // Without a place to lead to there is no listener.
                if let (Ok((client, _)), Some(to)) = (accepted, now.to) {
                    tokio::spawn(connect(client, to, state.clone(), delay));
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
    to: SocketAddr,
    state: watch::Receiver<State>,
    delay: Duration,
) {
    // Failure closes the client's connection.
    let Ok(agent) = TcpStream::connect(to).await else {
        return;
    };
    let _ = (client.set_nodelay(true), agent.set_nodelay(true));
    // TCP's handshake takes a round trip.
    let open = Instant::now() + 2 * delay;
    let (client_reads, client_writes) = client.into_split();
    let (agent_reads, agent_writes) = agent.into_split();
    let pump = |state: &watch::Receiver<State>| Pump {
        born: state.borrow().cuts,
        state: state.clone(),
        on_the_way: VecDeque::new(),
        open,
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
    born: u32,
    /// When to deliver them; `None` is the end.
    on_the_way: VecDeque<(Instant, Option<Bytes>)>,
    open: Instant,
    delay: Duration,
}

impl Pump {
    async fn run(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = BytesMut::new();
        let (mut ended, mut lost) = (false, false);
        loop {
            let State { traffic, cuts, .. } = *self.state.borrow_and_update();
            if cuts != self.born {
                return;
            }
            if traffic == Traffic::Vanishes {
                lost = true;
                self.on_the_way.clear();
            }
            let passes = traffic == Traffic::Passes && !lost;
            let reads = !ended && (lost || passes && self.on_the_way.len() < MOST_ON_THE_WAY);
            let due = self
                .on_the_way
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
                        let at = self.open.max(Instant::now()) + self.delay;
                        self.on_the_way.push_back((at, (!ended).then_some(bytes)));
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let Some((_, Some(bytes))) = self.on_the_way.pop_front() else {
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
