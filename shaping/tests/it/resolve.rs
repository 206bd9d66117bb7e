//! The order in which blocks are laid over each other, and what later files do to earlier ones.

use godwit_shaping::{EnableTls, Faults, Limit, Query, Resolved, Shaping};

const BASE: &str = r#"
["default"]
connection_limit = 10
max_message_rate = "100/s"
smtp_port = 26

["default".sources."a"]
smtp_port = 27

[provider."big"]
match = [{MXSuffix=".big.example."}]
enable_tls = "Required"
connection_limit = 20
provider_connection_limit = 5
additional_connection_limits = { all = 100 }

[provider."big".sources."a"]
connection_limit = 30
provider_source_selection_rate = "5/day"

["shared.example"]
connection_limit = 40
max_message_rate = "2/s"

["shared.example".sources."a"]
max_connection_rate = "1/s"

["alone.example"]
mx_rollup = false
connection_limit = 50

["alone.example".sources."a"]
max_connection_rate = "2/s"
"#;

fn read(text: &str) -> Shaping {
    let mut faults = Faults::default();
    let shaping = Shaping::parse(text, "base.toml", &mut faults);
    assert!(faults.is_empty(), "{faults}");
    shaping
}

fn resolve(shaping: &Shaping, domain: &str, source: &str) -> Resolved {
    let mx_hosts = ["mx1.big.example".to_string(), "MX2.BIG.example.".to_string()];
    shaping.resolve(&Query { domain, site: "the-site", mx_hosts: &mx_hosts, source })
}

fn origin(resolved: &Resolved, name: &str) -> String {
    let value = resolved.values.iter().find(|value| value.name == name).unwrap();
    format!("{} {}", value.origin.file, value.origin.block)
}

#[test]
fn each_layer_lies_over_the_one_before() {
    let shaping = read(BASE);
    let check = |domain: &str, source: &str, limit: u32, block: &str| {
        let resolved = resolve(&shaping, domain, source);
        assert_eq!(resolved.path.connections.connection_limit, Limit::shared(limit), "{domain} {source}");
        assert_eq!(origin(&resolved, "connection_limit"), format!("base.toml {block}"));
        assert_eq!(resolved.provider.as_deref(), Some("big"));
        assert_eq!(resolved.path.tls.enable_tls, EnableTls::Required);
        assert_eq!(origin(&resolved, "data_timeout"), " ");
        resolved
    };
    check("any.example", "b", 20, "provider.\"big\"");
    let with_source = check("any.example", "a", 30, "provider.\"big\".sources.\"a\"");
    assert_eq!(with_source.path.connections.smtp_port, 27);
    let shared = check("shared.example", "a", 40, "\"shared.example\"");
    assert_eq!(shared.path.connections.max_connection_rate.as_ref().unwrap().limit, 1);
    check("ALONE.example.", "b", 50, "\"alone.example\"");
    let elsewhere = shaping.resolve(&Query { domain: "any.example", ..Query::default() });
    assert_eq!((elsewhere.provider, elsewhere.path.connections.connection_limit), (None, Limit::shared(10)));
}

#[test]
fn a_provider_limits_over_all_its_sites_by_name() {
    let resolved = resolve(&read(BASE), "any.example", "a");
    let limits = &resolved.path.connections.additional_connection_limits;
    assert_eq!(limits.get("provider:big:a"), Some(&Limit::shared(5)));
    assert_eq!(limits.get("all"), Some(&Limit::shared(100)));
    assert_eq!(resolved.path.messages.additional_source_selection_rates["provider:big:a"].limit, 5);
}

#[test]
fn a_block_holds_for_all_domains_of_its_site_unless_it_says_no() {
    let shaping = read(BASE).with_site("shared.example", "the-site").with_site("alone.example", "the-site");
    let neighbour = resolve(&shaping, "neighbour.example", "a");
    assert_eq!(neighbour.path.connections.connection_limit, Limit::shared(40));
    assert_eq!(origin(&neighbour, "max_connection_rate"), "base.toml \"shared.example\".sources.\"a\"");
    // The domain's own block lies over that of its site, and its source over the site's.
    let alone = resolve(&shaping, "alone.example", "a");
    assert_eq!(alone.path.connections.connection_limit, Limit::shared(50));
    assert_eq!(alone.path.messages.max_message_rate.unwrap().limit, 2);
    assert_eq!(alone.path.connections.max_connection_rate.unwrap().limit, 2);
    assert_eq!(shaping.domains_rolled_up().collect::<Vec<_>>(), ["shared.example"]);
}

#[test]
fn later_files_lie_over_earlier_ones() {
    let folder = crate::Folder::new();
    let base = folder.file("base.toml", BASE);
    let rule = "[[provider.\"big\".automation]]\nregex = \"x\"\naction = \"Suspend\"\nduration = \"1m\"\n";
    let over = "[provider.\"big\"]\nadditional_connection_limits = { more = 7 }\n[\"shared.example\"]\nreplace_base = true\nconnection_limit = 41\n";
    let later = folder.file("later.toml", &format!("{over}{rule}"));
    let json = folder.file("last.json", r#"{"default": {"connection_limit": "1,000", "smtp_port": 28}}"#);
    let mut faults = Faults::default();
    let shaping = Shaping::load(&[base, later, json], &mut faults);
    assert!(faults.is_empty(), "{faults}");
    let any = resolve(&shaping, "any.example", "b");
    assert_eq!(any.path.connections.connection_limit, Limit::shared(20));
    assert_eq!(
        any.path.connections.additional_connection_limits.keys().collect::<Vec<_>>(),
        ["all", "more", "provider:big:b"]
    );
    assert_eq!(any.path.connections.smtp_port, 28);
    assert!(origin(&any, "smtp_port").ends_with("last.json \"default\""));
    // Replaced: nothing of the earlier block is left, neither its rate nor its source's.
    let shared = resolve(&shaping, "shared.example", "a");
    assert_eq!(shared.path.connections.connection_limit, Limit::shared(41));
    assert_eq!(shared.path.connections.max_connection_rate, None);
    assert_eq!(shared.path.messages.max_message_rate.unwrap().limit, 100);
    assert_eq!(shaping.rules().count(), 1);
}

#[test]
fn of_several_providers_the_closest_holds() {
    let shaping = read(
        "[provider.\"a\"]\nmatch = [{MXSuffix=\".example\"}]\n[provider.\"b\"]\nmatch = [{HostName=\"mx.b.example\"}]\n[provider.\"c\"]\nmatch = [{DomainSuffix=\"c.test\"}]\n",
    );
    let check = |domain: &str, host: &str, provider: Option<&str>| {
        assert_eq!(shaping.provider_of(domain, &[host.to_string()]), provider, "{domain} {host}");
    };
    check("x.test", "mx.a.example", Some("a"));
    check("x.test", "mx.b.example", Some("b"));
    check("c.test", "mx.elsewhere", Some("c"));
    check("x.test", "mx.elsewhere", None);
}
