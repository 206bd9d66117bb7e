//! An SMTP transaction in the contracts' words. Pure.

use godwit_proto::common::v1::{BodyType, DsnReturn, Envelope, Notify, Recipient};
use godwit_smtp::{
    command::{self, Ret},
    receive::Transaction,
};

/// The envelope of a transaction whose content is to go along with it.
pub fn of(transaction: &Transaction) -> Envelope {
    let params = &transaction.params;
    Envelope {
        reverse_path: transaction.reverse_path.to_text(),
        recipients: transaction.recipients.iter().map(recipient).collect(),
        body_type: body_type(&transaction.body).into(),
        smtputf8: params.smtputf8,
        requiretls: params.requiretls,
        ret: match params.ret {
            None => DsnReturn::Unspecified,
            Some(Ret::Full) => DsnReturn::Full,
            Some(Ret::Headers) => DsnReturn::Headers,
        }
        .into(),
        envid: params.envid.clone().unwrap_or_default(),
        deliver_by: None,
    }
}

/// What the content needs of the next hop. Clients' BODY is not trusted: many send 8-bit text without a word.
pub fn body_type(content: &[u8]) -> BodyType {
    if content.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime }
}

fn recipient(recipient: &godwit_smtp::receive::Recipient) -> Recipient {
    Recipient {
        address: recipient.address.to_string(),
        orcpt: recipient
            .params
            .orcpt
            .as_ref()
            .map_or_else(String::new, |orcpt| format!("{};{}", orcpt.kind, orcpt.address)),
        notify: recipient.params.notify.map_or_else(Vec::new, notify),
        metadata: Default::default(),
    }
}

fn notify(notify: command::Notify) -> Vec<i32> {
    let wanted = match notify {
        command::Notify::Never => vec![Some(Notify::Never)],
        command::Notify::On { success, failure, delay } => {
            vec![success.then_some(Notify::Success), failure.then_some(Notify::Failure), delay.then_some(Notify::Delay)]
        }
    };
    wanted.into_iter().flatten().map(i32::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use godwit_smtp::{Command, receive};

    #[test]
    fn all_of_the_envelope_is_carried_over() {
        let mail = b"MAIL FROM:<a@b> RET=HDRS ENVID=x BODY=7BIT REQUIRETLS";
        let Ok(Command::Mail { reverse_path, params }) = Command::parse(mail) else { panic!("MAIL") };
        let rcpt = b"RCPT TO:<\"c d\"@E.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o@x";
        let Ok(Command::Rcpt { forward_path: godwit_smtp::ForwardPath::Address(address), params: rcpt }) =
            Command::parse(rcpt)
        else {
            panic!("RCPT")
        };
        let helo = receive::Helo { name: "c".into(), esmtp: true };
        let recipients = vec![receive::Recipient { address, params: rcpt }];
        let body = Bytes::from_static("ü\r\n".as_bytes());
        let envelope = of(&Transaction { helo, reverse_path, params, recipients, body });
        assert_eq!((envelope.reverse_path.as_str(), envelope.envid.as_str()), ("a@b", "x"));
        assert_eq!((envelope.ret(), envelope.body_type()), (DsnReturn::Headers, BodyType::EightBitMime));
        assert!(envelope.requiretls && !envelope.smtputf8);
        let [recipient] = &envelope.recipients[..] else { panic!("one recipient") };
        assert_eq!((recipient.address.as_str(), recipient.orcpt.as_str()), ("\"c d\"@e.test", "rfc822;o@x"));
        assert_eq!(recipient.notify().collect::<Vec<_>>(), [Notify::Success, Notify::Delay]);
    }
}
