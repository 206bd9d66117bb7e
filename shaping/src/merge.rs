//! The files as one: blocks by name, later files over earlier ones.

use crate::block::{Block, Kind, Reader};
use crate::provider::normal;
use crate::rule::Rule;
use godwit_kit::config::{Fault, Faults};
use std::collections::BTreeMap;
use std::sync::Arc;
use toml::{Table, Value};

/// All that the files say. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shaping {
    pub(crate) blocks: Arc<Blocks>,
    /// The site of a block's domain, where somebody has told it.
    pub(crate) sites: BTreeMap<String, String>,
    warnings: Arc<Vec<Fault>>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Blocks {
    pub default: Block,
    pub providers: BTreeMap<String, Block>,
    pub domains: BTreeMap<String, Block>,
}

impl Shaping {
    /// Reads one text in TOML; `file` stands in faults and origins. What is wrong is noted and left out.
    pub fn parse(text: &str, file: &str, faults: &mut Faults) -> Self {
        match text.parse::<Table>() {
            Ok(table) => Self::read(table, file, faults),
            Err(error) => {
                faults.add(file, error.to_string().trim_end());
                Self::default()
            }
        }
    }

    /// Lays a later file over this one.
    pub fn merge(&mut self, later: Self) {
        let Blocks { default, providers, domains } = Arc::unwrap_or_clone(later.blocks);
        let blocks = Arc::make_mut(&mut self.blocks);
        blocks.default.merge(default);
        for (name, block) in providers {
            blocks.providers.entry(name).or_default().merge(block);
        }
        for (name, block) in domains {
            blocks.domains.entry(name).or_default().merge(block);
        }
        self.sites.extend(later.sites);
        Arc::make_mut(&mut self.warnings).extend(Arc::unwrap_or_clone(later.warnings));
    }

    /// Tells the site of a domain that has a block, so that the block holds for all that share the site.
    #[must_use]
    pub fn with_site(mut self, domain: &str, site: &str) -> Self {
        self.sites.insert(normal(domain), site.into());
        self
    }

    /// The domains whose blocks hold for their whole site: [`Shaping::with_site`] wants to know theirs.
    pub fn domains_rolled_up(&self) -> impl Iterator<Item = &str> {
        self.blocks.domains.iter().filter(|(_, block)| block.mx_rollup.unwrap_or(true)).map(|(name, _)| name.as_str())
    }

    /// All rules, in the order in which they are matched: default, providers, domains.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        let Blocks { default, providers, domains } = &*self.blocks;
        std::iter::once(default).chain(providers.values()).chain(domains.values()).flat_map(|block| &block.rules)
    }

    /// What has no effect though it is no fault: keys and actions that Godwit does not use, providers that nothing matches.
    pub fn warnings(&self) -> Vec<Fault> {
        let unmatched = self.blocks.providers.iter().filter(|(_, block)| block.matches.is_empty()).map(|(name, _)| {
            Fault { key: format!("provider.{name:?}"), what: "no file says what it matches: it never holds".into() }
        });
        self.warnings.iter().cloned().chain(unmatched).collect()
    }

    pub(crate) fn read(table: Table, file: &str, faults: &mut Faults) -> Self {
        let mut blocks = Blocks::default();
        let mut warnings = Vec::new();
        let mut read = |value: Value, kind: Kind, name: &str, header: String| {
            let mut reader = Reader { file, block: header, within: String::new(), faults, warnings: &mut warnings };
            match value {
                Value::Table(table) => Block::read(table, kind, name, &mut reader),
                other => {
                    reader.fault("", format!("expected a table, found {other}"));
                    Block::default()
                }
            }
        };
        for (name, value) in table {
            match (name.as_str(), value) {
                ("default", value) => blocks.default = read(value, Kind::Default, &name, "\"default\"".into()),
                ("provider", Value::Table(providers)) => {
                    for (name, value) in providers {
                        let block = read(value, Kind::Provider, &name, format!("provider.{name:?}"));
                        blocks.providers.insert(name, block);
                    }
                }
                (_, value) => {
                    let block = read(value, Kind::Domain, &normal(&name), format!("{name:?}"));
                    blocks.domains.entry(normal(&name)).or_default().merge(block);
                }
            }
        }
        Self { blocks: Arc::new(blocks), sites: BTreeMap::new(), warnings: Arc::new(warnings) }
    }
}
