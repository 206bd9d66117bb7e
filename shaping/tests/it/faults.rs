//! Every fault is found at once and says where it is; what is sound still counts.

use godwit_shaping::{Action, AppliesTo, Faults, Shaping, Trigger};
use std::path::PathBuf;
use std::time::Duration;

const BAD: &str = r#"
["default"]
connection_limit = 0
idle_timeout = "1m"
no_such_key = 1
max_ready = 10000

["default".sources."a"]
max_message_rate = "often"

[provider."p"]
match = [{MXSuffix=""}]
mx_rollup = true

[["example.com".automation]]
regex = "("
action = "Explode"
trigger = {Threshold="5"}
why = "?"

[["example.com".automation]]
regex = "x"
action = {SetConfig={name="connection_limit", value=0}}
duration = "5 minutes"

[["example.com".automation]]
regex = "sound"
action = ["SuspendTenant", "Suspend"]
duration = "5 minutes"
"#;

#[test]
fn all_at_once_with_file_block_and_key() {
    let mut faults = Faults::default();
    let shaping = Shaping::parse(BAD, "bad.toml", &mut faults);
    let mut keys: Vec<_> = faults.0.iter().map(|fault| fault.key.strip_prefix("bad.toml: ").unwrap()).collect();
    keys.sort();
    let expected = [
        "\"default\".connection_limit",
        "\"default\".no_such_key",
        "\"default\".sources.\"a\".max_message_rate",
        "\"example.com\".automation[1].action",
        "\"example.com\".automation[1].duration",
        "\"example.com\".automation[1].regex",
        "\"example.com\".automation[1].trigger",
        "\"example.com\".automation[1].why",
        "\"example.com\".automation[2].action",
        "provider.\"p\".match",
        "provider.\"p\".mx_rollup",
    ];
    assert_eq!(keys, expected);
    let warnings: Vec<_> = shaping.warnings().into_iter().map(|warning| warning.key).collect();
    let expected =
        ["bad.toml: \"default\".max_ready", "bad.toml: \"example.com\".automation[3].action", "provider.\"p\""];
    assert_eq!(warnings, expected);
    assert_eq!(shaping.rules().count(), 1);
    assert_eq!(shaping.resolve(&Default::default()).path.timeouts.idle, Duration::from_secs(60));
}

#[test]
fn a_file_that_is_not_there_or_no_toml_is_a_fault_of_its_own() {
    let folder = crate::Folder::new();
    let files = [
        folder.file("a.toml", "= 1"),
        PathBuf::from("/nowhere/b.toml"),
        folder.file("c.json", "{"),
        folder.file("d.toml", "x = 1"),
    ];
    let mut faults = Faults::default();
    Shaping::load(&files, &mut faults);
    assert_eq!(faults.0.len(), 4);
    for (fault, file) in faults.0.iter().zip(&files) {
        assert!(fault.key.starts_with(&*file.to_string_lossy()), "{fault:?}");
    }
}

#[test]
fn rules_in_all_their_forms() {
    let text = r#"
[["default".automation]]
regex = ['''Messages from \d+\.\d+\.\d+\.\d+ deferred''', "busy"]
action = [{SetConfig={name="max_message_rate", value="1/minute"}}, {SetConfig={name="connection_limit", value=1}}]
duration = "90m"

[["example.com".automation]]
regex = "^(?!.*internal).*RL0000"
trigger = {Threshold="2/hr"}
action = "Suspend"
duration = "2 hours"
match_internal = true

["example.com"]
mx_rollup = false

[[provider."p".automation]]
regex = "x"
trigger = "Immediate"
action = "BounceCampaign"
duration = "1 hour"
"#;
    let mut faults = Faults::default();
    let shaping = Shaping::parse(text, "f", &mut faults);
    assert!(faults.is_empty(), "{faults}");
    let rules: Vec<_> = shaping.rules().collect();
    let scopes: Vec<_> = rules.iter().map(|rule| rule.applies_to.clone()).collect();
    let domain = AppliesTo::Domain { name: "example.com".into(), mx_rollup: false };
    assert_eq!(scopes, [AppliesTo::Everything, AppliesTo::Provider("p".into()), domain]);
    assert_eq!(rules[0].actions.len(), 2);
    assert_eq!(rules[0].actions[1], Action::SetConfig { name: "connection_limit".into(), value: "1".into() });
    assert!(rules[0].matches("421 4.7.0 Messages from 10.0.0.1 deferred") && rules[0].matches("400 busy"));
    assert_eq!(rules[2].trigger, Trigger::Threshold { count: 2, period: Duration::from_secs(3600) });
    assert!(rules[2].matches("421 RL0000") && !rules[2].matches("421 internal RL0000"));
    assert!(rules[2].match_internal && !rules[1].match_internal);
    assert_eq!(rules[2].to_string(), "f: \"example.com\" #1");
}
