//! What holds for one domain, site and source: the blocks that apply, laid over each other, each value with its origin.

use crate::block::{Block, Entry, PROVIDER_KEYS, Values};
use crate::merge::Shaping;
use crate::path::Path;
use crate::provider::{fit, normal};
use std::collections::BTreeMap;
use toml::{Table, Value};

/// Whom mail goes to, and from where.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query<'a> {
    /// What the mail is routed by.
    pub domain: &'a str,
    pub site: &'a str,
    /// The names of the site's hosts.
    pub mx_hosts: &'a [String],
    /// The egress source's name.
    pub source: &'a str,
}

/// The path there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    pub provider: Option<String>,
    pub path: Path,
    /// Every key, in the path's order; values in TOML, empty where there is none.
    pub values: Vec<PathValue>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathValue {
    pub name: String,
    pub value: String,
    pub origin: Origin,
}

/// Where a value comes from. All empty: it is the default of the code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    pub file: String,
    /// `"default"`, `provider."x".sources."a"`, `"example.com"`.
    pub block: String,
    /// The automation rule, where an action set it; never by [`Shaping::resolve`].
    pub rule: String,
}

impl Shaping {
    /// Lays over each other: defaults of the code, `default`, the provider, the provider's source, blocks that hold for
    /// the site, the domain's own, then the sources of both.
    pub fn resolve(&self, query: &Query<'_>) -> Resolved {
        let domain = normal(query.domain);
        let provider = self.provider_of(query.domain, query.mx_hosts);
        let mut layers = Layers { provider, source: query.source, path: Path::default(), origins: BTreeMap::new() };
        layers.add("\"default\"", &self.blocks.default.values);
        layers.add_source("\"default\"", &self.blocks.default);
        if let Some((name, block)) = provider.and_then(|name| self.blocks.providers.get_key_value(name)) {
            let header = format!("provider.{name:?}");
            layers.add(&header, &block.values);
            layers.add_source(&header, block);
        }
        let (of_site, of_domain) = self.blocks_for(&domain, query.site);
        for (name, block) in of_site.iter().chain(&of_domain) {
            layers.add(&format!("{name:?}"), &block.values);
        }
        for (name, block) in of_site.iter().chain(&of_domain) {
            layers.add_source(&format!("{name:?}"), block);
        }
        layers.finish()
    }

    /// The provider whose matches fit most closely; of equals the first by name.
    pub fn provider_of(&self, domain: &str, mx_hosts: &[String]) -> Option<&str> {
        let domain = normal(domain);
        let hosts: Vec<String> = mx_hosts.iter().map(|host| normal(host)).collect();
        let mut best: Option<(usize, &str)> = None;
        for (name, block) in &self.blocks.providers {
            if let Some(length) = fit(&block.matches, &domain, &hosts)
                && best.is_none_or(|(longest, _)| length > longest)
            {
                best = Some((length, name));
            }
        }
        best.map(|(_, name)| name)
    }

    /// Blocks that hold by the site, the domain's own last; then the domain's own where it holds for itself alone.
    fn blocks_for(&self, domain: &str, site: &str) -> (Vec<Named<'_>>, Vec<Named<'_>>) {
        let mut of_site = Vec::new();
        for name in
            self.sites.iter().filter(|(_, known)| known.as_str() == site && !site.is_empty()).map(|(name, _)| name)
        {
            if let Some((name, block)) = self.blocks.domains.get_key_value(name)
                && block.mx_rollup.unwrap_or(true)
                && name != domain
            {
                of_site.push((name.as_str(), block));
            }
        }
        let mut of_domain = Vec::new();
        if let Some((name, block)) = self.blocks.domains.get_key_value(domain) {
            let rolls_up = block.mx_rollup.unwrap_or(true);
            if rolls_up { &mut of_site } else { &mut of_domain }.push((name.as_str(), block));
        }
        (of_site, of_domain)
    }
}

/// A domain's block with its name.
type Named<'a> = (&'a str, &'a Block);

/// The path so far, and where its values are from.
struct Layers<'a> {
    provider: Option<&'a str>,
    source: &'a str,
    path: Path,
    origins: BTreeMap<String, Origin>,
}

impl Layers<'_> {
    fn add(&mut self, header: &str, values: &Values) {
        for (key, Entry { value, file }) in values {
            let origin = Origin { file: file.to_string(), block: header.into(), rule: String::new() };
            let (key, value) = match PROVIDER_KEYS.iter().find(|(name, _)| name == key) {
                Some((_, named)) => (*named, Value::Table(Table::from_iter([(self.limit_name(), value.clone())]))),
                None => (key.as_str(), value.clone()),
            };
            self.path.set_value(key, &value).expect("values are checked when a block is read");
            self.origins.insert(key.into(), origin);
        }
    }

    fn add_source(&mut self, header: &str, block: &Block) {
        if let Some(values) = block.sources.get(self.source) {
            self.add(&format!("{header}.sources.{:?}", self.source), values);
        }
    }

    /// A provider sees each source on its own: what it limits, it limits by source.
    fn limit_name(&self) -> String {
        format!("provider:{}:{}", self.provider.unwrap_or_default(), self.source)
    }

    fn finish(mut self) -> Resolved {
        let value = |(name, value): (&str, String)| {
            let origin = self.origins.remove(name).unwrap_or_default();
            PathValue { name: name.into(), value, origin }
        };
        let values = self.path.values().into_iter().map(value).collect();
        Resolved { provider: self.provider.map(Into::into), path: self.path, values }
    }
}
