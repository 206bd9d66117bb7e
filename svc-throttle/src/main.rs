//! Runs the throttle service in a process of its own. Decides nothing.

use futures::FutureExt;
use godwit_kit::{House, alone};
use std::process::ExitCode;
use svc_throttle::{Config, NEEDS};

fn main() -> ExitCode {
    alone::main(NEEDS, async |house: &mut House, section: Config| {
        svc_throttle::place(section, house)?;
        Ok(async {}.boxed())
    })
}
