//! Runs the egress in a process of its own. Decides nothing.

use futures::FutureExt;
use godwit_kit::{House, alone};
use godwit_proto::{proxy, queue, throttle, tsa};
use std::process::ExitCode;
use svc_egress::{Config, Deps, NEEDS};

fn main() -> ExitCode {
    alone::main(NEEDS, async |house: &mut House, section: Config| {
        let deps = Deps {
            queues: house.all("queue", None, queue::at),
            throttle: house.first("throttle", throttle::at).ok_or("egress needs throttle")?,
            tsa: house.all("tsa", None, tsa::at),
            proxies: house.all("proxy", None, proxy::at),
        };
        svc_egress::place(section, deps, house).await?;
        Ok(async {}.boxed())
    })
}
