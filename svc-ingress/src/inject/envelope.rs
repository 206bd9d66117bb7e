//! An injected envelope: every address parsed, so that nothing in it can become another command.

use godwit_proto::common::v1::{BodyType, DsnReturn, Envelope, Notify, Recipient};
use godwit_smtp::{Address, ReversePath};

use super::Refused;
use crate::envelope::body_type;

/// `InjectMessage.envelope`.
const RECIPIENTS_MAX: usize = 1_000;
/// RFC 3461 sections 4.4 and 4.2.
const ENVID_BYTES_MAX: usize = 100;
const ORCPT_BYTES_MAX: usize = 500;

pub fn parse(mut envelope: Envelope, content: &[u8]) -> Result<Envelope, Refused> {
    let smtputf8 = envelope.smtputf8;
    let reverse_path: ReversePath = envelope.reverse_path.parse().map_err(|error| {
        Refused::new("envelope.reverse_path", 501, (5, 1, 7), format!("Bad sender address: {error}"))
    })?;
    if reverse_path.address().is_some_and(|address| !address.is_ascii()) && !smtputf8 {
        return Err(beyond_ascii("envelope.reverse_path"));
    }
    envelope.reverse_path = reverse_path.to_text();
    let count = envelope.recipients.len();
    if count == 0 {
        return Err(Refused::new("envelope.recipients", 554, (5, 5, 1), "No recipients"));
    }
    if count > RECIPIENTS_MAX {
        return Err(Refused::new(
            "envelope.recipients",
            550,
            (5, 5, 3),
            format!("More than {RECIPIENTS_MAX} recipients"),
        ));
    }
    for (place, recipient) in envelope.recipients.iter_mut().enumerate() {
        check_recipient(recipient, smtputf8).map_err(|refused| Refused {
            field: format!("envelope.recipients[{place}].{}", refused.field),
            reply: refused.reply,
        })?;
    }
    if envelope.envid.len() > ENVID_BYTES_MAX || !is_printable(&envelope.envid) {
        let what = format!("must be at most {ENVID_BYTES_MAX} printable ASCII characters");
        return Err(Refused::field("envelope.envid", what));
    }
    if DsnReturn::try_from(envelope.ret).is_err() {
        return Err(Refused::field("envelope.ret", "no such value"));
    }
    envelope.body_type = match BodyType::try_from(envelope.body_type) {
        Ok(BodyType::Unspecified | BodyType::SevenBit | BodyType::EightBitMime) => body_type(content).into(),
        Ok(BodyType::BinaryMime) => {
            return Err(Refused::new("envelope.body_type", 554, (5, 6, 1), "Binary content is not taken"));
        }
        Err(_) => return Err(Refused::field("envelope.body_type", "no such value")),
    };
    Ok(envelope)
}

fn check_recipient(recipient: &mut Recipient, smtputf8: bool) -> Result<(), Refused> {
    let address: Address = recipient
        .address
        .parse()
        .map_err(|error| Refused::new("address", 501, (5, 1, 3), format!("Bad recipient address: {error}")))?;
    if !address.is_ascii() && !smtputf8 {
        return Err(beyond_ascii("address"));
    }
    recipient.address = address.to_string();
    let orcpt = &recipient.orcpt;
    let typed = orcpt.split_once(';').is_some_and(|(kind, address)| !kind.is_empty() && !address.is_empty());
    if !orcpt.is_empty() && (!typed || orcpt.len() > ORCPT_BYTES_MAX || !is_printable(orcpt)) {
        return Err(Refused::field("orcpt", "must be `type;address` in printable ASCII"));
    }
    let notify: Result<Vec<Notify>, _> = recipient.notify.iter().map(|value| Notify::try_from(*value)).collect();
    match notify.as_deref() {
        Ok([] | [Notify::Never]) => Ok(()),
        Ok(wanted) if !wanted.iter().any(|want| matches!(want, Notify::Never | Notify::Unspecified)) => Ok(()),
        Ok(_) | Err(_) => Err(Refused::field("notify", "must be NEVER alone, or any of SUCCESS, FAILURE and DELAY")),
    }
}

fn beyond_ascii(field: &str) -> Refused {
    Refused::new(field, 553, (5, 6, 7), "Address beyond ASCII needs smtputf8")
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}
