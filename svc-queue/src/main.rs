//! Runs the queue in a process of its own. Decides nothing.

use futures::FutureExt;
use godwit_kit::{House, alone};
use godwit_proto::{throttle, tsa};
use std::process::ExitCode;
use svc_queue::{Config, Deps, NEEDS};

fn main() -> ExitCode {
    alone::main(NEEDS, async |house: &mut House, section: Config| {
        let (tsa, throttle) = (house.all("tsa", None, tsa::at), house.first("throttle", throttle::at));
        let queue = svc_queue::place(section, Deps { tsa, throttle }, house).await?;
        // The log is sealed once nothing writes any more.
        Ok(async move { queue.close().await }.boxed())
    })
}
