//! Something made of files, made anew when they change; the old one stays until the new one is whole.

use super::Error;
use crate::Host;
use arc_swap::ArcSwap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

const LOOK_EVERY: Duration = Duration::from_secs(2);

type Read<M> = Box<dyn Fn() -> Result<M, Error> + Send + Sync>;
type Make<M, C> = Box<dyn Fn(&M) -> Result<C, Error> + Send + Sync>;

/// What is in use now, and the material it was made of.
pub struct Reloaded<M, C> {
    current: ArcSwap<C>,
    /// Held for as long as one reload takes: reloads go one after another.
    material: Mutex<M>,
    read: Read<M>,
    make: Make<M, C>,
}

impl<M: PartialEq + Send + 'static, C: Send + Sync + 'static> Reloaded<M, C> {
    pub fn load(
        read: impl Fn() -> Result<M, Error> + Send + Sync + 'static,
        make: impl Fn(&M) -> Result<C, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let material = read()?;
        let current = ArcSwap::from_pointee(make(&material)?);
        Ok(Self { current, material: Mutex::new(material), read: Box::new(read), make: Box::new(make) })
    }

    pub fn current(&self) -> Arc<C> {
        self.current.load_full()
    }

    /// True where the files had changed and what they hold is in use now.
    pub fn reload(&self) -> Result<bool, Error> {
        let mut material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        let read = (self.read)()?;
        if *material == read {
            return Ok(false);
        }
        self.current.store(Arc::new((self.make)(&read)?));
        *material = read;
        Ok(true)
    }
}

/// Looks at the files every few seconds and at SIGHUP, until the host stops. `what` is the setting's key path.
pub fn watch<M, C>(reloaded: Arc<Reloaded<M, C>>, what: &str, host: &Host)
where
    M: PartialEq + Send + 'static,
    C: Send + Sync + 'static,
{
    let (what, stop) = (what.to_string(), host.stop.clone());
    host.stop.spawn(async move {
        let mut hangups = signal(SignalKind::hangup()).ok();
        let mut told = None;
        loop {
            let hangup = async {
                match &mut hangups {
                    Some(hangups) => hangups.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = hangup => {}
                () = stop.requested() => return,
            }
            let look = reloaded.clone();
            let Ok(outcome) = tokio::task::spawn_blocking(move || look.reload()).await else { continue };
            match outcome {
                Ok(changed) => {
                    if changed {
                        tracing::info!(what, "certificates reloaded");
                    }
                    told = None;
                }
                // Once a fault, however often it is met.
                Err(error) if told.as_ref() != Some(&error) => {
                    tracing::warn!(what, %error, "certificates not reloaded, the old ones stay");
                    told = Some(error);
                }
                Err(_) => {}
            }
        }
    });
}
