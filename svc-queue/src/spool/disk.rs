//! The disk seam: the one file of this crate that touches the file system. Everything above it runs as well on `sim`.

use std::fs;
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder with one level of folders in it. Names are relative: `seg-00000001.log`, `events/…`, `quarantine/…`.
pub trait Disk: Send + Sync {
    /// Makes an empty file (or empties it). The name is durable only after `sync_dir`.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The files (not folders) of a folder, `""` being the top, with their lengths.
    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>>;
    fn make_folder(&self, folder: &str) -> io::Result<()>;
    /// Makes the names in that folder durable.
    fn sync_dir(&self, folder: &str) -> io::Result<()>;
    /// Takes the folder for this instance until the guard is dropped; `None` when another has it.
    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>>;
    /// For messages to people.
    fn describe(&self) -> String;
}

/// An open file. One writer at a time; any number of readers.
#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
pub trait File: Send + Sync {
    /// May read less than asked; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `parts`, one after the other, or fails with an unknown part of them written.
    fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;
    fn sync_data(&self) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    /// Sets the length; what is new reads as zeros.
    fn allocate(&self, len: u64) -> io::Result<()>;
}

/// Reads exactly `len` bytes, or as many as there are.
pub fn read_up_to(file: &dyn File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; len];
    let mut done = 0;
    while done < len {
        match file.read_at(&mut buffer[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    buffer.truncate(done);
    Ok(buffer)
}

pub fn read_whole(disk: &dyn Disk, name: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let len = file.len()?;
    read_up_to(&*file, 0, len as usize)
}

/// Writes a small file so that after a crash there is either all of it or what was there before.
pub fn replace(disk: &dyn Disk, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let temporary = format!("{name}.tmp");
    let file = disk.create(&temporary)?;
    file.write_at(0, &mut parts.iter().map(|p| IoSlice::new(p)).collect::<Vec<_>>())?;
    file.sync_data()?;
    disk.rename(&temporary, name)?;
    disk.sync_dir(name.rsplit_once('/').map_or("", |(folder, _)| folder))
}

/// A folder of the real file system.
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// Makes the folder if it is not there.
    pub fn at(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        Ok(Self { root: root.to_owned() })
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(self.root.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::File::options().read(true).write(true).open(self.root.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(name))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.root.join(folder))? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_file() {
                files.push((entry.file_name().to_string_lossy().into_owned(), meta.len()));
            }
        }
        files.sort();
        Ok(files)
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        fs::create_dir_all(self.root.join(folder))
    }

    fn sync_dir(&self, folder: &str) -> io::Result<()> {
        fs::File::open(self.root.join(folder))?.sync_all()
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let path = self.root.join("lock");
        let file = fs::File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn describe(&self) -> String {
        self.root.display().to_string()
    }
}

struct RealFile(fs::File);

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.0.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    // The cursor is the writer's alone: readers use pread. std has no stable pwritev.
    fn write_at(&self, offset: u64, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        (&self.0).seek(SeekFrom::Start(offset))?;
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match (&self.0).write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut parts, n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}
