//! Tests the layer: labels, rejections, ends of flows, HTTP checks and servers.

mod adaptive;
mod axum;
mod body;
mod caches;
mod cancel;
mod capture;
mod check_http;
mod contract;
mod embedded;
mod endings;
mod extract;
mod flow_handle;
mod http_engine;
mod labels;
mod outgoing;
mod panics;
mod problem;
mod quotas;
mod reading;
mod reject;
mod settle;
mod shadow;
mod tonic;
mod tonic_http;

#[path = "../layer_support/grpc.rs"]
mod grpc;
#[path = "../layer_support/mod.rs"]
mod layer_support;
#[path = "../support/mod.rs"]
mod support;
