//! A served agent and its callers.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tower_aperture::Engine;
use tower_aperture::agent::{Agent, AgentBuilder};
use tower_aperture::pb::check::flow_control_service_client::FlowControlServiceClient;

/// Serves until it is dropped.
pub(crate) struct Served {
    #[allow(dead_code)] // Not every test looks inside.
    pub(crate) agent: Agent,
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Served {
    pub(crate) async fn start(
        engine: Engine,
        set: impl FnOnce(AgentBuilder) -> AgentBuilder,
    ) -> Self {
        let agent = set(Agent::builder(engine)).build();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("its address");
        let (stop, stopped) = oneshot::channel::<()>();
        let own = agent.clone();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            own.serve(listener, stopped).await.expect("it serves");
        });
        Self {
            agent,
            address,
            stop: Some(stop),
            task,
        }
    }

    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address))
            .expect("an address")
            .connect()
            .await
            .expect("it listens")
    }

    pub(crate) async fn checks(&self) -> FlowControlServiceClient<Channel> {
        FlowControlServiceClient::new(self.channel().await)
    }

    /// Ends calmly; ready when everybody is gone.
    pub(crate) async fn stop(mut self) {
        self.stop.take();
        self.task.await.expect("it ends");
    }
}
