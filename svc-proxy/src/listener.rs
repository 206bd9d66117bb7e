//! Accepts clients until the stop or a drain; each session is a task of its own.

use crate::session::{self, Context};
use godwit_kit::net::{Connection, Listener};
use std::sync::Arc;
use std::time::Duration;

/// After a failed accept (no descriptors left, mostly): how long others get to end.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The listener is closed when this returns: clients are then refused by the system and go elsewhere at once.
pub(crate) async fn run(listener: Listener, context: Arc<Context>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = context.host.stop.requested() => return,
            () = context.register.draining.cancelled() => return,
        };
        match accepted {
            Ok(connection) => admit(connection, &context),
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                context.host.clock.sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Starts the session, or closes the connection where the client may not come in or there is no room.
fn admit(connection: Connection, context: &Arc<Context>) {
    let (client, totals) = (connection.peer, &context.register.totals);
    totals.accepted.inc();
    if !context.rules.allows_client(client.ip()) {
        totals.refused.inc();
        tracing::info!(%client, "refused: not within proxy.clients");
        return;
    }
    let Some(open) = context.register.open(client) else {
        totals.refused.inc();
        tracing::warn!(%client, sessions_max = context.config.sessions_max, "refused: proxy.sessions_max are open");
        return;
    };
    context.host.stop.spawn(session::run(context.clone(), connection, open));
}
