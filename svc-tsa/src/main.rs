//! Runs the traffic shaping automation in a process of its own. Decides nothing.

use futures::FutureExt;
use godwit_kit::{House, alone};
use std::process::ExitCode;
use svc_tsa::{Config, NEEDS};

fn main() -> ExitCode {
    alone::main(NEEDS, async |house: &mut House, section: Config| {
        svc_tsa::place(section, house).await?;
        Ok(async {}.boxed())
    })
}
