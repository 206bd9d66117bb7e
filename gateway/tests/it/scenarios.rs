//! The scenarios: one list, passed by the MTA in one process and by every service in a process of its own behind mutual
//! TLS. Further processes stand beside both.

mod doors;
mod egresses;
mod mail;
mod queues;
mod tsas;

/// Each scenario twice.
macro_rules! scenarios {
    ($($module:ident::$name:ident)*) => {
        mod near {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$module::$name(crate::world::Placement::Near).await;
            })*
        }
        mod spread {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$module::$name(crate::world::Placement::Spread).await;
            })*
        }
    };
}

scenarios! {
    mail::delivered
    mail::deferred_then_delivered
    mail::bounced_once
    mail::some_recipients_refused
    mail::peer_disconnects_in_data
    mail::reply_to_the_message_lost
    mail::no_mx
    mail::null_mx
    mail::domain_that_does_not_exist
    mail::connection_refused
    mail::slow_peer
    mail::throttled_then_delivered
    mail::suspended_then_resumed
    mail::two_lanes_share_a_connection
    queues::two_queues_one_away
    queues::answer_to_enqueue_lost
    queues::small_backlog_beside_a_large_one
    queues::queue_killed_under_load
    queues::queue_on_a_new_disk
    queues::queue_away_when_ingress_starts
    queues::queue_away_when_egress_starts
    egresses::egress_dies
    egresses::two_egresses_share_a_queue
    egresses::egress_killed_under_load
    egresses::through_the_proxy
    egresses::two_egresses_share_a_proxy
    tsas::two_tsas_agree
    tsas::tsa_away_under_load
    tsas::tsa_with_an_empty_folder
    tsas::tsa_restored_from_a_backup
    tsas::tsa_that_is_watched_dies
    tsas::no_tsa_left
    doors::two_ingresses_one_away
}

const CONTENT: &str = "Subject: hi\r\n\r\nhello";
