//! The program `tower-aperture-agent`: a standalone Aperture Agent, with commands to query agents
//! and validate policies.
#![forbid(unsafe_code)]

mod args;
mod check;
mod dry_run;
mod generate;
mod keys;
mod logs;
mod output;
mod reloader;
mod serve;
mod shared;
mod signals;
mod status;
mod tls;
mod validate;
mod values;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Args, Command};
use self::output::{ErrorChain, print_error};

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man => generate::man(),
    };
    result.unwrap_or_else(|error| {
        print_error(ErrorChain(&*error));
        ExitCode::FAILURE
    })
}
