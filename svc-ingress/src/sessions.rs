//! All SMTP sessions of this process, to be listed and ended.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use godwit_proto::{common::v1::Peer, convert::timestamp, ingress::v1};
use tokio_util::sync::CancellationToken;

/// One client's connection; ids sort by the time of their making.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SessionId(uuid::Uuid);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session_{}", self.0.simple())
    }
}

/// Every session that is open.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Arc<Mutex<BTreeMap<SessionId, Arc<Known>>>>);

/// What is known of one; written by the session, read by listings.
#[derive(Debug)]
pub struct Known {
    pub id: SessionId,
    peer: SocketAddr,
    listener: SocketAddr,
    started: SystemTime,
    helo: Mutex<String>,
    in_data: AtomicBool,
    messages: AtomicU64,
    /// Set when the session is to end, by a stop or a kill.
    told: CancellationToken,
    killed: OnceLock<String>,
}

/// A session's own hold on its entry; gone from the listing when dropped.
#[derive(Debug)]
pub struct Entry {
    known: Arc<Known>,
    sessions: Sessions,
}

impl Sessions {
    /// `told` is the stop that the session watches.
    pub fn enter(&self, peer: SocketAddr, listener: SocketAddr, started: SystemTime, told: CancellationToken) -> Entry {
        let known = Arc::new(Known {
            id: SessionId(uuid::Uuid::now_v7()),
            peer,
            listener,
            started,
            helo: Mutex::default(),
            in_data: AtomicBool::new(false),
            messages: AtomicU64::new(0),
            told,
            killed: OnceLock::new(),
        });
        self.lock().insert(known.id, known.clone());
        Entry { known, sessions: self.clone() }
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// At most `count`, from the one after `token`; and the token to go on with, empty at the end.
    pub fn page(&self, count: usize, token: &str) -> (Vec<v1::Session>, String) {
        let sessions = self.lock();
        let mut rest = sessions.values().filter(|known| token.is_empty() || known.id.to_string().as_str() > token);
        let page: Vec<v1::Session> = rest.by_ref().take(count).map(|known| known.shown()).collect();
        let more = rest.next().and(page.last());
        let token = more.map_or_else(String::new, |last| last.session_id.clone());
        (page, token)
    }

    /// False where there is no such session.
    pub fn kill(&self, id: &str, reason: &str) -> bool {
        let sessions = self.lock();
        let Some(known) = sessions.values().find(|known| known.id.to_string() == id) else { return false };
        let _ = known.killed.set(reason.into());
        known.told.cancel();
        true
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Arc<Known>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn shown(&self) -> v1::Session {
        let peer = self.peer.ip().to_canonical().to_string();
        v1::Session {
            session_id: self.id.to_string(),
            peer: Some(Peer { name: String::new(), address: peer, port: u32::from(self.peer.port()) }),
            listener: self.listener.to_string(),
            helo: self.helo.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            state: if self.in_data.load(Ordering::Relaxed) { "data" } else { "command" }.into(),
            started: Some(timestamp(self.started)),
            message_count: self.messages.load(Ordering::Relaxed),
        }
    }
}

impl Entry {
    pub fn id(&self) -> SessionId {
        self.known.id
    }

    pub fn greeted(&self, helo: &str) {
        helo.clone_into(&mut self.known.helo.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn in_data(&self, in_data: bool) {
        self.known.in_data.store(in_data, Ordering::Relaxed);
    }

    pub fn took_message(&self) {
        self.known.messages.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns once the session is to end.
    pub async fn told(&self) {
        self.known.told.cancelled().await;
    }

    /// Why it was killed, if it was.
    pub fn killed(&self) -> Option<&str> {
        self.known.killed.get().map(String::as_str)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.known.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other() {
        let sessions = Sessions::default();
        let at: SocketAddr = "[::ffff:192.0.2.1]:1".parse().unwrap();
        let enter = || sessions.enter(at, at, SystemTime::UNIX_EPOCH, CancellationToken::new());
        let entries = [enter(), enter(), enter()];
        let (first, token) = sessions.page(2, "");
        let (second, end) = sessions.page(2, &token);
        let listed: Vec<String> = first.iter().chain(&second).map(|session| session.session_id.clone()).collect();
        assert_eq!(listed, entries.each_ref().map(|entry| entry.id().to_string()));
        assert_eq!((end.as_str(), first[0].peer.as_ref().unwrap().address.as_str()), ("", "192.0.2.1"));
        drop(entries);
        assert!(sessions.is_empty());
    }
}
