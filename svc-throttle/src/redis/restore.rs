//! Puts back into Redis what it does not know: after it lost its state, what this node remembers; after this node was on its
//! own share, what it gave there.

use super::memo::{Debt, Holding};
use super::node::Node;
use super::own::{Holds, Owed, Own};
use super::scripts::{Frame, Scripts, Undone, said};
use super::wire::{Away, Call, Item};
use crate::lease::{Held, SlotId};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::time::Instant;

/// Calls in one round trip.
const PIECE: usize = 500;

/// What is put back of one limit.
enum Back {
    /// As remembered.
    Debt { key: String, debt: Debt },
    /// Given on this node's share.
    Own(Owed),
    /// `all`: the node holds no others of the key.
    Slots { key: String, limit: u32, held: Vec<(SlotId, Held)>, all: bool },
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
            self.restore_remembered(own.is_none()).await?;
        }
        if let Some(own) = own {
            self.restore_own(&own).await?;
        }
        self.end_return(epoch);
        tracing::info!(epoch, "what this node gave is known to Redis");
        Ok(())
    }

    /// `slots`: also the slots, which a node on its share knows better.
    async fn restore_remembered(&self, slots: bool) -> Result<(), Away> {
        let now = self.earliest();
        let backs = self.memo(|memo, _| {
            let debts = memo.debts().map(|(key, debt)| Back::Debt { key: key.into(), debt: *debt });
            let live = |(key, holding): (&str, &Holding)| Back::Slots {
                key: key.into(),
                limit: holding.limit,
                held: holding.ordered(now).into_iter().map(|(slot, held)| (slot, held.clone())).collect(),
                all: false,
            };
            debts.chain(memo.holdings().filter(|_| slots).map(live)).collect()
        });
        self.put_back(backs, slots).await
    }

    async fn restore_own(&self, own: &Own) -> Result<(), Away> {
        self.put_back(own.owed().into_iter().map(Back::Own).collect(), false).await?;
        let holds = own.holds(self.earliest());
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
                    Err(Undone::Refused(what)) => return Err(Away(format!("{}: {what}", self.wire.address()))),
                    Err(Undone::Epoch | Undone::Lapsed | Undone::Lost) => {
                        return Err(Away(format!("{}: it lost its state again", self.wire.address())));
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
