//! `compare`: Godwit beside Postfix on the same work, by turns, with our own load and sink and with Postfix's.

use super::run::{self, Figures};
use super::{Setting, Work};
use crate::mta::Which;
use crate::place::{self, Folder};
use crate::tools::SmtpSink;
use anyhow::{Result, ensure};
use bench::sink::{Keep, Obliging, Sink};
use clap::Args;
use godwit_kit::net::Net;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Compare {
    /// The binary `godwit`; without it, Postfix alone.
    #[arg(long, value_name = "PATH")]
    godwit: Option<PathBuf>,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pairs: u32,
    #[command(flatten)]
    work: Work,
    #[command(flatten)]
    setting: Setting,
}

/// Who sends and who takes.
#[derive(Debug, Clone, Copy)]
enum Ends {
    Own,
    Tools,
}

impl Compare {
    pub async fn run(&self) -> Result<()> {
        let Work { messages, size, connections, .. } = self.work;
        let kind = place::file_system(&self.setting.base().canonicalize()?);
        println!("{messages} messages of {size} bytes over {connections} connections, {} pairs, on {kind}", self.pairs);
        for (ends, name) in [(Ends::Own, "own load and sink"), (Ends::Tools, "smtp-source and smtp-sink")] {
            self.table(ends, name).await?;
        }
        Ok(())
    }

    async fn table(&self, ends: Ends, name: &str) -> Result<()> {
        let postfix = Which { godwit: None, postfix: true };
        let godwit = self.godwit.as_ref().map(|path| Which { godwit: Some(path.clone()), postfix: false });
        let (mut without, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for pair in 0..self.pairs {
            without.push(self.once(ends, None).await?);
            // By turns, so that a machine that gets slower or faster favours neither.
            if pair % 2 == 1 {
                theirs.push(self.once(ends, Some(&postfix)).await?);
            }
            if let Some(godwit) = &godwit {
                ours.push(self.once(ends, Some(godwit)).await?);
            }
            if pair % 2 == 0 {
                theirs.push(self.once(ends, Some(&postfix)).await?);
            }
        }
        println!("\n{name:26}  {:>26}  {:>24}", "delivered messages/s", "CPU s per 1,000");
        row("no MTA", &without, false);
        row("Postfix", &theirs, true);
        if !ours.is_empty() {
            row("Godwit", &ours, true);
            let rates = Spread::of(ours.iter().zip(&theirs).map(|(our, their)| our.per_second() / their.per_second()));
            let cpu = ours.iter().zip(&theirs).map(|(our, their)| our.cpu_per_thousand() / their.cpu_per_thousand());
            println!("{:26}  {:>26}  {:>24}", "Godwit / Postfix, by pair", rates.show(2), Spread::of(cpu).show(2));
        }
        Ok(())
    }

    /// One run in a new folder; fails unless as many came as were promised.
    async fn once(&self, ends: Ends, which: Option<&Which>) -> Result<Figures> {
        let folder = Folder::new(&self.setting.base())?;
        let figures = match ends {
            Ends::Own => self.once_own(&folder, which).await?,
            Ends::Tools => {
                let sink = SmtpSink::start(folder.path(), None).await?;
                let mut mta = match which {
                    Some(which) => Some(which.start(folder.path(), sink.address(), &self.setting.set).await?),
                    None => None,
                };
                run::tools(mta.as_mut(), &self.work, (&sink, folder.path()), self.setting.stall()).await?
            }
        };
        println!("  {:8} {figures}", which.map_or("no MTA", Which::name));
        Ok(figures)
    }

    async fn once_own(&self, folder: &Folder, which: Option<&Which>) -> Result<Figures> {
        let sink = Sink::start(&Net::Tcp, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Keep::Count, Obliging).await?;
        let mut mta = match which {
            Some(which) => Some(which.start(folder.path(), sink.address(), &self.setting.set).await?),
            None => None,
        };
        let load = self.work.load(vec![mta.as_ref().map_or(sink.address(), crate::mta::Mta::smtp).to_string()]);
        let (sent, figures) = run::own(mta.as_mut(), &load, &sink, self.setting.stall()).await;
        let figures = figures?;
        let (all, taken, came) = (self.work.messages as usize, sent.accepted.len(), sink.count());
        ensure!(taken == all && came == all, "sent {all}, promised {taken}, came {came}; refusals {:?}", sent.refusals);
        Ok(figures)
    }
}

fn row(name: &str, runs: &[Figures], with_cpu: bool) {
    let rates = Spread::of(runs.iter().map(Figures::per_second)).show(0);
    let cpu = Spread::of(runs.iter().map(Figures::cpu_per_thousand)).show(2);
    println!("{name:26}  {rates:>26}  {:>24}", if with_cpu { cpu.as_str() } else { "" });
}

/// Median, least and most.
pub(super) struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// Of at least one value.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Self { median, least: values[0], most: values[values.len() - 1] }
    }

    pub(super) fn show(&self, places: usize) -> String {
        let Self { median, least, most } = self;
        format!("{median:.places$} ({least:.places$} to {most:.places$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0].into_iter()).show(1), "2.0 (1.0 to 3.0)");
        assert_eq!(Spread::of([4.0, 1.0].into_iter()).show(1), "2.5 (1.0 to 4.0)");
        assert_eq!(Spread::of([5.0].into_iter()).show(0), "5 (5 to 5)");
    }
}
