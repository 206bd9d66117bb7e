//! Tables for addresses and paths, and the law that what is shown parses back.

use proptest::prelude::*;

use super::*;

#[test]
fn addresses() {
    fn check(text: &str, expected: Result<(&str, &str, &str), Error>) {
        let got = Address::parse(text);
        let got = got.as_ref().map(|a| (a.local(), a.domain(), a.to_string())).map_err(|e| *e);
        assert_eq!(got, expected.map(|(l, d, shown)| (l, d, shown.to_owned())), "{text:?}");
    }
    check("a@b", Ok(("a", "b", "a@b")));
    check("A.b+c@EXAMPLE.Com", Ok(("A.b+c", "example.com", "A.b+c@example.com")));
    check("\"a\"@x", Ok(("a", "x", "a@x")));
    check("\"a b\"@x", Ok(("a b", "x", "\"a b\"@x")));
    check("\"a\\\"\\\\b\"@x", Ok(("a\"\\b", "x", "\"a\\\"\\\\b\"@x")));
    check("\"t@third\"@our.dom", Ok(("t@third", "our.dom", "\"t@third\"@our.dom")));
    check("\"\"@x", Ok(("", "x", "\"\"@x")));
    check("\"..\"@x", Ok(("..", "x", "\"..\"@x")));
    check("third!t%u@our.dom", Ok(("third!t%u", "our.dom", "third!t%u@our.dom")));
    check("${run{\\x2Fbin}}@our.dom", Err(Error::LocalSyntax));
    check("t@[127.0.0.1]", Ok(("t", "[127.0.0.1]", "t@[127.0.0.1]")));
    check("t@[ipv6:0:0::1]", Ok(("t", "[IPv6:::1]", "t@[IPv6:::1]")));
    check("ü@bücher.example", Ok(("ü", "xn--bcher-kva.example", "ü@xn--bcher-kva.example")));
    check("a@foo_bar.example", Ok(("a", "foo_bar.example", "a@foo_bar.example")));
    check("a", Err(Error::DomainMissing));
    check("", Err(Error::DomainMissing).or(Err(Error::LocalSyntax)));
    check("@x", Err(Error::LocalSyntax));
    check("a@", Err(Error::DomainSyntax));
    check("a..b@x", Err(Error::LocalSyntax));
    check(".a@x", Err(Error::LocalSyntax));
    check("a.@x", Err(Error::LocalSyntax));
    check("a b@x", Err(Error::LocalSyntax));
    check(" a@x", Err(Error::LocalSyntax));
    check("t@third@our.dom", Err(Error::DomainSyntax));
    check("t@third.", Err(Error::DomainSyntax));
    check("t@-x", Err(Error::DomainSyntax));
    check("t@x y", Err(Error::DomainSyntax));
    check("t@[1.2.3]", Err(Error::DomainSyntax));
    check("t@[1.2.3.4", Err(Error::DomainSyntax));
    check("t@[IPv6:zz]", Err(Error::DomainSyntax));
    check("\"a@x", Err(Error::LocalSyntax));
    check("\"a\"b@x", Err(Error::LocalSyntax));
    check("\"a\u{1}\"@x", Err(Error::LocalSyntax));
    check("\"a\r\n\"@x", Err(Error::LocalSyntax));
    check("a\u{85}@x", Err(Error::LocalSyntax));
    check("a@x>\r\nRCPT TO:<c@d", Err(Error::DomainSyntax));
}

#[test]
fn lengths() {
    fn check(text: &str, expected: Option<Error>) {
        assert_eq!(Address::parse(text).err(), expected, "{text:?}");
    }
    check(&format!("{}@x", "a".repeat(64)), None);
    check(&format!("{}@x", "a".repeat(65)), Some(Error::LocalTooLong));
    check(&format!("a@{}", "a".repeat(64)), Some(Error::DomainSyntax));
    check(&format!("a@{}b", "a.".repeat(127)), None);
    check(&format!("a@{}bc", "a.".repeat(127)), Some(Error::DomainTooLong));
    let path = |domain: usize| format!("<a@{}{}>", "b.".repeat(domain / 2), "c".repeat(domain % 2 + 1));
    assert!(ReversePath::take(&path(250)).is_ok());
    assert_eq!(ReversePath::take(&format!("<@{}:a@b>", "r.".repeat(130) + "r")), Err(Error::PathTooLong));
}

#[test]
fn reverse_paths() {
    fn check(text: &str, expected: Result<(&str, &str), Error>) {
        let got = ReversePath::take(text).map(|(path, rest)| (path.to_text(), rest.to_owned()));
        assert_eq!(got, expected.map(|(path, rest)| (path.to_owned(), rest.to_owned())), "{text:?}");
    }
    check("<>", Ok(("", "")));
    check("<a@b> SIZE=1", Ok(("a@b", " SIZE=1")));
    check("<\"a>b\"@c>", Ok(("\"a>b\"@c", "")));
    check("<@x,@y:a@b>", Ok(("a@b", "")));
    check("a@b", Err(Error::Brackets));
    check("<a@b", Err(Error::Brackets));
    check("< a@b>", Err(Error::LocalSyntax));
    check("<a@b >", Err(Error::DomainSyntax));
    check("<spam>", Err(Error::DomainMissing));
    check("<;for i in 0 1 2;do read r;done;sh;exit 0;>", Err(Error::LocalSyntax));
    assert_eq!("".parse(), Ok(ReversePath::Null));
    assert_eq!("<>".parse(), Ok(ReversePath::Null));
    assert_eq!("<a@b>".parse::<ReversePath>(), "a@b".parse());
    assert_eq!("<a@b>x".parse::<ReversePath>(), Err(Error::Brackets));
}

/// The relay test forms of hostile-input section 4.4: each is judged by its final address, or is no address.
#[test]
fn forward_paths() {
    fn check(text: &str, expected: Result<&str, Error>) {
        let got = ForwardPath::take(text).map(|(path, _)| match path {
            ForwardPath::Postmaster => "postmaster".to_owned(),
            ForwardPath::Address(address) => address.to_string(),
        });
        assert_eq!(got, expected.map(str::to_owned), "{text:?}");
    }
    check("<postmaster>", Ok("postmaster"));
    check("<PostMaster>", Ok("postmaster"));
    check("<>", Err(Error::LocalSyntax));
    check("<t@third>", Ok("t@third"));
    check("<t%third@our.dom>", Ok("t%third@our.dom"));
    check("<\"t@third\">", Err(Error::DomainMissing));
    check("<\"t@third\"@our.dom>", Ok("\"t@third\"@our.dom"));
    check("<t@third@our.dom>", Err(Error::DomainSyntax));
    check("<@our.dom:t@third>", Ok("t@third"));
    check("<@[127.0.0.1]:t@third>", Ok("t@third"));
    check("<@[IPv6:::1],@our.dom:t@third>", Ok("t@third"));
    check("<@our.dom,third:t@x>", Err(Error::RouteSyntax));
    check("<@our.dom>", Err(Error::RouteSyntax));
    check("<@our.dom:>", Err(Error::LocalSyntax));
    check("<@:t@third>", Err(Error::RouteSyntax));
    check("<third!t>", Err(Error::DomainMissing));
    check("<third!t@our.dom>", Ok("third!t@our.dom"));
    check("<t@third.>", Err(Error::DomainSyntax));
    check("<t@THIRD>", Ok("t@third"));
    check("<t@[IPv6:::1]>", Ok("t@[IPv6:::1]"));
    check("<\"a\" @x>", Err(Error::LocalSyntax));
}

proptest! {
    #[test]
    fn shown_parses_back(text in "\\PC{0,40}@[a-zA-Z0-9.\\[\\]:-]{1,20}") {
        if let Ok(address) = Address::parse(&text) {
            prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
        }
    }

    #[test]
    fn quoted_parses_back(local in "[ -~]{0,30}") {
        let address = Address { local, domain: "x".into() };
        let shown = address.to_string();
        if shown.len() <= LOCAL_BYTES_MAX {
            prop_assert_eq!(Address::parse(&shown), Ok(address.clone()));
            let path = format!("<{shown}> A=B");
            prop_assert_eq!(ReversePath::take(&path), Ok((ReversePath::Address(address), " A=B")));
        }
    }

    #[test]
    fn nothing_panics(text in "\\PC{0,60}") {
        let _ = ReversePath::take(&text);
        let _ = ForwardPath::take(&text);
    }
}
