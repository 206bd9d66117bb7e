//! Runs the egress proxy in a process of its own. Decides nothing.

use futures::FutureExt;
use godwit_kit::{House, alone};
use std::process::ExitCode;
use svc_proxy::{Config, NEEDS};

fn main() -> ExitCode {
    alone::main(NEEDS, async |house: &mut House, section: Config| {
        svc_proxy::place(section, house).await?;
        Ok(async {}.boxed())
    })
}
