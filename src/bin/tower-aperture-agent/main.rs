//! `tower-aperture-agent`: an Aperture Agent of one node, and what one asks of it by hand.
#![forbid(unsafe_code)]

mod args;
mod check;
mod keys;
mod logs;
mod output;
mod reloader;
mod serve;
mod signals;
mod status;
mod tls;
mod validate;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Args, Command};
use self::output::{WithCauses, complain};

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Status(args) => status::run(&args),
    };
    done.unwrap_or_else(|problem| {
        complain(WithCauses(&*problem));
        ExitCode::FAILURE
    })
}
