//! Puts back into Redis what it does not know: after it lost its state, what this node remembers; after this node was on its
//! own share, what it gave there.

use super::memo::{Debt, Holding, Promise};
use super::node::Node;
use super::own::{Holds, Owed, Own};
use super::scripts::{Frame, Scripts, Undone, said};
use super::wire::{Away, Call, Item};
use crate::lease::{Held, SlotId, Slots};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::time::Instant;

/// Calls in one round trip.
pub(super) const PIECE: usize = 500;

/// What is put back of one limit.
enum Back {
    /// As remembered.
    Debt { key: String, debt: Debt },
    /// Given on this node's share.
    Own(Owed),
    /// `all`: the node holds no others of the key.
    Slots { key: String, limit: u32, held: Slots, all: bool },
}

impl Node {
    /// `own`: this node was on its share.
    pub(super) async fn restore(&self, own: Option<Arc<Own>>) -> Result<(), Away> {
        let (epoch, restored) = self.epochs();
        if epoch != restored {
            let scripts = Arc::new(Scripts::new(epoch));
            self.wire.load(&scripts.all()).await?;
            self.set_scripts(scripts);
        }
        if let Some(own) = &own {
            self.begin_return(own);
        }
        // From here on nothing is given: what is remembered stays as it is.
        self.quiet(|| ()).await;
        if epoch != restored {
            self.put_back(self.debts(), own.is_none()).await?;
        }
        match own {
            Some(own) => self.restore_own(&own).await?,
            None => self.restore_slots(epoch != restored).await?,
        }
        self.end_return(epoch);
        tracing::info!(epoch, "what this node gave is known to Redis");
        Ok(())
    }

    fn debts(&self) -> Vec<Back> {
        let back = |(key, debt): (&str, &Debt)| Back::Debt { key: key.into(), debt: *debt };
        self.memo(|memo, _| memo.debts().map(back).collect())
    }

    /// The slots that are remembered, `all` or those of which some were promised while Redis did not answer.
    async fn restore_slots(&self, all: bool) -> Result<(), Away> {
        let (latest, own_now) = self.latest();
        let promises = self.memo(|memo, _| memo.promises());
        // By Redis' clock.
        let promised = |promise: &Promise| latest + promise.until.saturating_sub(own_now);
        let mut until: HashMap<(&str, SlotId), u64> = HashMap::new();
        until.extend(promises.iter().map(|promise| ((promise.key.as_str(), promise.slot), promised(promise))));
        let keys: HashSet<&str> = promises.iter().map(|promise| promise.key.as_str()).collect();
        let back = |(key, holding): (&str, &Holding)| {
            let lasting = |(slot, held): (&SlotId, &Held)| {
                let until = until.get(&(key, *slot)).copied().unwrap_or(0).max(held.until_micros());
                (*slot, Held::new(&held.holder, (until, held.ttl_micros()), held.ending))
            };
            let held = holding.held.iter().map(lasting).collect();
            Back::Slots { key: key.into(), limit: holding.limit, held, all: false }
        };
        let backs: Vec<Back> =
            self.memo(|memo, _| memo.holdings().filter(|(key, _)| all || keys.contains(key)).map(back).collect());
        self.put_back(backs, all).await?;
        self.memo(|memo, _| promises.iter().for_each(|promise| memo.promise_is_known(promise, promised(promise))));
        Ok(())
    }

    async fn restore_own(&self, own: &Own) -> Result<(), Away> {
        self.put_back(own.owed().into_iter().map(Back::Own).collect(), false).await?;
        let holds = own.holds(self.latest().0);
        let held: HashSet<&str> = holds.iter().map(|holds| &*holds.key).collect();
        let mut backs: Vec<Back> = self.memo(|memo, _| {
            // Of these it holds nothing any more.
            let gone = memo.holdings().filter(|(key, _)| !held.contains(key));
            let gone = gone.map(|(key, holding)| (key.to_string(), holding.limit));
            gone.map(|(key, limit)| Back::Slots { key, limit, held: Vec::new(), all: true }).collect()
        });
        backs.extend(holds.iter().map(|Holds { key, limit, held }| Back::Slots {
            key: key.to_string(),
            limit: *limit,
            held: held.clone(),
            all: true,
        }));
        self.put_back(backs, false).await?;
        self.memo(|memo, _| {
            memo.forget_slots();
            holds.into_iter().for_each(|Holds { key, limit, held }| memo.holds(&key, limit, held.into_iter()));
        });
        Ok(())
    }

    /// In pieces; `renewing`: the lease is kept meanwhile.
    async fn put_back(&self, backs: Vec<Back>, renewing: bool) -> Result<(), Away> {
        let (frame, name) = (self.frame_to_restore(), self.name());
        let mut renewed = Instant::now();
        for piece in backs.chunks(PIECE) {
            let calls: Vec<Call> = piece.iter().map(|back| back.call(&frame, &name)).collect();
            for (answer, back) in self.wire.run(&calls).await?.into_iter().zip(piece) {
                match said(answer) {
                    Ok(items) => self.note_restored(back, &items),
                    Err(Undone::Refused(what)) => return Err(self.wire.away(&what)),
                    Err(Undone::Epoch | Undone::Lapsed | Undone::Lost) => {
                        return Err(self.wire.away("it lost its state again"));
                    }
                }
            }
            if renewing && renewed.elapsed() >= self.tick() {
                self.renew().await?;
                renewed = Instant::now();
            }
        }
        Ok(())
    }

    fn note_restored(&self, back: &Back, items: &[Item]) {
        let (key, rate) = match back {
            Back::Debt { key, debt } => (&**key, debt.rate),
            Back::Own(owed) => (&*owed.key, owed.rate),
            Back::Slots { .. } => return,
        };
        if let Some(debt) = Frame::restored_debt(rate, items) {
            self.memo(|memo, _| memo.owes(key, debt));
        }
    }
}

impl Back {
    fn call(&self, frame: &Frame, node: &str) -> Call {
        match self {
            Self::Debt { key, debt } => frame.restore_debt(key, debt),
            Self::Own(owed) => frame.restore_own(owed),
            Self::Slots { key, limit, held, all } => frame.restore_slots(key, (node, *limit, *all), held),
        }
    }
}
