//! Runs the ingress in a process of its own. Decides nothing.

use futures::FutureExt;
use godwit_kit::{House, alone};
use godwit_proto::queue;
use std::process::ExitCode;
use svc_ingress::{Config, NEEDS};

fn main() -> ExitCode {
    alone::main(NEEDS, async |house: &mut House, section: Config| {
        let queues = house.all("queue", None, queue::at);
        svc_ingress::place(section, queues, house).await?;
        Ok(async {}.boxed())
    })
}
