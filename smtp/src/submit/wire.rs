//! The commands as they go over the wire.

use std::fmt::Write;

use super::{Capabilities, Recipient, Transaction, client::Step};

/// One step's command; the message itself is not text and goes another way.
pub(super) fn step(step: Step, transaction: &Transaction, offered: &Capabilities) -> String {
    match step {
        Step::Rset => "RSET\r\n".into(),
        Step::Mail => mail(transaction, offered),
        Step::Rcpt(at) => transaction.recipients.get(at).map(|recipient| rcpt(recipient, offered)).unwrap_or_default(),
        Step::Data => "DATA\r\n".into(),
        Step::LoneDot => ".\r\n".into(),
        Step::Message => String::new(),
    }
}

fn mail(transaction: &Transaction, offered: &Capabilities) -> String {
    let Transaction { reverse_path, recipients, body, body_8bit, smtputf8, requiretls, ret, envid } = transaction;
    let mut line = format!("MAIL FROM:{reverse_path}");
    if offered.size {
        push(&mut line, format_args!(" SIZE={}", body.len()));
    }
    if offered.eight_bit_mime && *body_8bit {
        line.push_str(" BODY=8BITMIME");
    }
    let mut addresses = reverse_path.address().into_iter().chain(recipients.iter().map(|r| &r.address));
    if offered.smtputf8 && (*smtputf8 || addresses.any(|address| !address.is_ascii())) {
        line.push_str(" SMTPUTF8");
    }
    if offered.requiretls && *requiretls {
        line.push_str(" REQUIRETLS");
    }
    if let Some(ret) = ret.filter(|_| offered.dsn) {
        push(&mut line, format_args!(" RET={}", ret.as_str()));
    }
    if let Some(envid) = envid.as_deref().filter(|envid| offered.dsn && !envid.is_empty()) {
        push(&mut line, format_args!(" ENVID={}", crate::command::xtext_encode(envid)));
    }
    line.push_str("\r\n");
    line
}

fn rcpt(recipient: &Recipient, offered: &Capabilities) -> String {
    let Recipient { address, params } = recipient;
    let mut line = format!("RCPT TO:<{address}>");
    if let Some(notify) = params.notify.filter(|_| offered.dsn) {
        push(&mut line, format_args!(" NOTIFY={}", notify.to_text()));
    }
    if let Some(orcpt) = params.orcpt.as_ref().filter(|_| offered.dsn) {
        push(&mut line, format_args!(" ORCPT={}", orcpt.to_text()));
    }
    line.push_str("\r\n");
    line
}

/// `EHLO name` or `HELO name`; what cannot stand in a name is left out.
pub(super) fn hello(verb: &str, name: &str) -> String {
    let name: String = name.chars().filter(char::is_ascii_graphic).collect();
    format!("{verb} {name}\r\n")
}

fn push(line: &mut String, part: std::fmt::Arguments<'_>) {
    line.write_fmt(part).expect("a String takes whatever is written to it");
}
