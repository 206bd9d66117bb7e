//! Our client against our own session, both fed in pieces of every size.

use bytes::BytesMut;
use proptest::prelude::*;

use super::{begin, client, transaction};
use crate::{
    receive,
    submit::{Event, Outcome, Transaction},
};

/// Runs a client against our own session, both fed `chunk` octets at a time.
fn deliver(
    transactions: Vec<Transaction>,
    chunk: usize,
    pipelining: bool,
) -> (Vec<Outcome>, Vec<receive::Transaction>) {
    let mut session = receive::Session::new(receive::Config { errors_max: 1000, ..receive::Config::default() });
    let mut client = client();
    let (mut to_client, mut to_session) = (BytesMut::new(), BytesMut::new());
    let (mut outcomes, mut kept) = (Vec::new(), Vec::new());
    let mut waiting = transactions.into_iter();
    loop {
        match session.advance(&mut to_session) {
            receive::Step::Close => return (outcomes, kept),
            receive::Step::NeedInput => {}
            receive::Step::StartTls => panic!("not offered"),
            receive::Step::Ask(ask) => {
                session.answer(match &ask {
                    receive::Ask::Rcpt { address, .. } if address.local() == "no" => {
                        receive::Verdict::Reply(crate::Reply::new(550, (5, 1, 1), "No"))
                    }
                    _ => receive::Verdict::Accept,
                });
                if let receive::Ask::Message(message) = ask {
                    kept.push(message);
                }
                continue;
            }
        }
        let said = session.output().split();
        for piece in said.chunks(chunk) {
            to_client.extend_from_slice(piece);
            while let Some(event) = client.feed(&mut to_client) {
                if let Event::Done(outcome) = event {
                    outcomes.push(outcome);
                }
                client.capabilities_mut().pipelining &= pipelining;
                match waiting.next() {
                    Some(next) => begin(&mut client, next),
                    None => client.quit(),
                }
            }
        }
        let first = client.output().pop_front();
        if let Some(mut slice) = first {
            to_session.extend_from_slice(&slice.split_to(slice.len().min(chunk)));
            if !slice.is_empty() {
                client.output().push_front(slice);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn reaches_our_own_session(
        mails in prop::collection::vec((prop::collection::vec(any::<bool>(), 1..5), "([a-z.]{0,8}\r\n){0,6}"), 1..4),
        chunk in 1usize..80,
        pipelining in any::<bool>(),
    ) {
        let address = |yes: bool| if yes { "yes@x" } else { "no@x" };
        let transactions = mails.iter().map(|(recipients, body)| {
            transaction(&recipients.iter().map(|yes| address(*yes)).collect::<Vec<_>>(), body)
        });
        let (outcomes, kept) = deliver(transactions.collect(), chunk, pipelining);
        prop_assert_eq!(outcomes.len(), mails.len());
        let mut kept = kept.iter();
        for ((recipients, body), outcome) in mails.iter().zip(&outcomes) {
            prop_assert!(outcome.reusable);
            for (yes, delivery) in recipients.iter().zip(&outcome.deliveries) {
                prop_assert_eq!(delivery.reply.code, if *yes { 250 } else { 550 });
                prop_assert!(!delivery.local && !delivery.maybe_delivered);
            }
            if recipients.contains(&true) {
                prop_assert_eq!(&kept.next().unwrap().body, body);
            }
        }
        prop_assert!(kept.next().is_none());
    }
}
