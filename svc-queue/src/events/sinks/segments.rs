//! A folder of compressed files with one JSON object a line. Blocks; durable when `append` returns.
//!
//! Each append is a zstd frame of its own: written, synced, and only then does the cursor speak of it. After a crash the file is
//! cut where the cursor says, so that no line is lost and none is there twice. A file that is being written ends in `.partial`;
//! once finished it is renamed, and never changes again.

use super::Config;
use super::place::{Place, Segment};
use crate::spool::disk::{Disk, File};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const FINISHED: &str = ".jsonl.zst";
const PARTIAL: &str = ".partial";
const DAMAGED: &str = ".damaged";

/// The folder of one sink. After an error it must be opened again.
pub struct Segments {
    disk: Arc<dyn Disk>,
    config: Config,
    place: Place,
    file: Option<Arc<dyn File>>,
    compressor: zstd::bulk::Compressor<'static>,
    /// Two sinks in one folder would cut each other's files.
    _lock: Box<dyn Send + Sync>,
}

impl Segments {
    /// Takes the folder up where the cursor left it, for the log `log_id` that ends with `newest`.
    pub fn open(disk: Arc<dyn Disk>, config: &Config, log_id: &str, newest: u64) -> io::Result<Self> {
        let lock = disk.lock()?.ok_or_else(|| io::Error::other("another sink has the folder"))?;
        let mut compressor = zstd::bulk::Compressor::new(config.compression_level)?;
        compressor.include_checksum(true)?;
        let known = Place::load(&*disk)?;
        let is_known = known.is_some();
        let mut place = known.unwrap_or_default();
        if place.log_id != log_id {
            (place.log_id, place.next_seq) = (log_id.into(), 1);
        }
        // A log that was put back to an older state counts from there.
        place.next_seq = place.next_seq.min(newest + 1);
        let mut segments = Self { disk, config: config.clone(), place, file: None, compressor, _lock: lock };
        segments.recover(is_known)?;
        // From here on a file without a cursor is a sign of damage.
        segments.place.save(&*segments.disk)?;
        Ok(segments)
    }

    /// The first event that is not here.
    pub fn next_seq(&self) -> u64 {
        self.place.next_seq
    }

    /// When the file that is being written becomes too old.
    pub fn finish_at(&self) -> Option<SystemTime> {
        self.place.segment.as_ref().map(|segment| segment.opened() + self.config.segment_age_max)
    }

    /// Adds whole lines that bring the sink to `next_seq`; none is well too.
    pub fn append(&mut self, lines: &[u8], next_seq: u64, now: SystemTime) -> io::Result<()> {
        if !lines.is_empty() {
            self.write(lines, now)?;
        }
        self.place.next_seq = next_seq;
        self.commit(now)
    }

    /// Finishes the file that is being written if it is due.
    pub fn commit(&mut self, now: SystemTime) -> io::Result<()> {
        let is_old = self.finish_at().is_some_and(|at| at <= now);
        if let Some(segment) = &mut self.place.segment {
            segment.finished = is_old || segment.lines_bytes >= self.config.segment_bytes_max.0;
        }
        self.place.save(&*self.disk)?;
        if self.place.segment.as_ref().is_some_and(|segment| segment.finished) {
            self.finish()?;
            self.retain(now)?;
        }
        Ok(())
    }

    fn write(&mut self, lines: &[u8], now: SystemTime) -> io::Result<()> {
        let (mut segment, file, is_new) = match (self.place.segment.take(), self.file.take()) {
            (Some(segment), Some(file)) => (segment, file, false),
            (None, _) | (_, None) => {
                let segment = self.new_segment(now)?;
                let file = self.disk.create(&format!("{}{PARTIAL}", segment.name))?;
                (segment, file, true)
            }
        };
        let frame = self.compressor.compress(lines)?;
        file.write_at(segment.size_bytes, &mut [IoSlice::new(&frame)])?;
        file.sync_data()?;
        if is_new {
            self.disk.sync_dir("")?;
        }
        segment.size_bytes += frame.len() as u64;
        segment.lines_bytes += lines.len() as u64;
        (self.place.segment, self.file) = (Some(segment), Some(file));
        Ok(())
    }

    /// Named by the time and the first event that it may hold.
    fn new_segment(&self, now: SystemTime) -> io::Result<Segment> {
        let taken: Vec<String> = self.finished()?.into_iter().map(|(name, _)| name).collect();
        let stem = format!("{}-{:010}", stamp(now), self.place.next_seq);
        let names = (1..).map(|copy| if copy == 1 { stem.clone() } else { format!("{stem}-{copy}") });
        let mut names = names.map(|stem| format!("{stem}{FINISHED}")).filter(|name| !taken.contains(name));
        let name = names.next().expect("the numbers do not run out");
        let opened_ms = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        Ok(Segment { name, size_bytes: 0, lines_bytes: 0, opened_ms, finished: false })
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file = None;
        if let Some(Segment { name, .. }) = self.place.segment.take() {
            self.disk.rename(&format!("{name}{PARTIAL}"), &name)?;
            self.disk.sync_dir("")?;
        }
        Ok(())
    }

    /// Puts the folder into the state that the cursor speaks of.
    fn recover(&mut self, is_known: bool) -> io::Result<()> {
        let current = self.place.segment.as_ref().map(|segment| format!("{}{PARTIAL}", segment.name));
        for (file, _) in self.disk.list("")?.iter().filter(|(file, _)| file.ends_with(PARTIAL)) {
            if Some(file) == current.as_ref() {
                self.file = self.cut(file)?;
            } else if is_known {
                // Begun, but never spoken of: its lines come again.
                self.disk.remove(file)?;
            } else {
                self.set_aside(file)?;
            }
        }
        if self.file.is_none() {
            // Finished and renamed already, or taken away by somebody.
            self.place.segment = None;
        }
        if self.place.segment.as_ref().is_some_and(|segment| segment.finished) {
            self.finish()?;
        }
        self.disk.sync_dir("")
    }

    /// Opens the file that is being written and drops what the cursor does not speak of.
    fn cut(&self, file: &str) -> io::Result<Option<Arc<dyn File>>> {
        let size_bytes = self.place.segment.as_ref().map_or(0, |segment| segment.size_bytes);
        let opened = self.disk.open(file)?;
        let found = opened.len()?;
        if found < size_bytes {
            tracing::error!(file, found, size_bytes, "a sink's file is shorter than what was synced; set aside");
            self.set_aside(file)?;
            return Ok(None);
        }
        if found > size_bytes {
            opened.allocate(size_bytes)?;
            opened.sync_data()?;
        }
        Ok(Some(opened))
    }

    fn set_aside(&self, file: &str) -> io::Result<()> {
        self.disk.rename(file, &format!("{file}{DAMAGED}"))
    }

    /// Finished files and their sizes, oldest first.
    fn finished(&self) -> io::Result<Vec<(String, u64)>> {
        let mut finished: Vec<_> =
            self.disk.list("")?.into_iter().filter(|(name, _)| name.ends_with(FINISHED)).collect();
        finished.sort();
        Ok(finished)
    }

    /// Removes finished files that are too old or too much; the newest always stays.
    fn retain(&self, now: SystemTime) -> io::Result<()> {
        let finished = self.finished()?;
        let bytes_max = match self.config.retain_bytes_max.0 {
            0 => u64::MAX,
            bytes_max => bytes_max,
        };
        let cutoff = self.config.retain_age_max.and_then(|age| now.checked_sub(age)).map(stamp).unwrap_or_default();
        let mut bytes: u64 = finished.iter().map(|(_, size_bytes)| size_bytes).sum();
        for ((name, size_bytes), (next, _)) in finished.iter().zip(finished.iter().skip(1)) {
            // A file's newest event is no younger than the next file's opening.
            if *next >= cutoff && bytes <= bytes_max {
                break;
            }
            self.disk.remove(name)?;
            bytes -= size_bytes;
        }
        Ok(())
    }
}

/// `YYYYMMDD-HHMMSS`, UTC.
fn stamp(time: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(time).to_string();
    time.chars().filter(char::is_ascii_digit).enumerate().fold(String::new(), |mut stamp, (place, digit)| {
        if place == 8 {
            stamp.push('-');
        }
        stamp.push(digit);
        stamp
    })
}

#[cfg(test)]
mod tests;
