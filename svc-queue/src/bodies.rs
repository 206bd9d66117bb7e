//! Bodies that are too large for a call: put in pieces before Enqueue, streamed in pieces for an attempt.

use crate::error::Error;
use crate::node::Node;
use crate::spool::Piece;
use bytes::{Bytes, BytesMut};
use futures::stream;
use godwit_proto::id::MessageId;
use godwit_proto::queue::v1::{PutBodyRequest, ReadBodyRequest, ReadBodyResponse};
use godwit_proto::{INLINE_BYTES_MAX, Replies};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tonic::Status;

const UPLOAD_ID_BYTES_MAX: usize = 64;
const UPLOADS_MAX: usize = 10_000;
const UNUSED_MS_MAX: u64 = 3_600_000;

/// Bodies that have been put and not been named by an Enqueue yet; in memory, bounded in sum.
pub struct Uploads {
    bytes_max: u64,
    one_bytes_max: u64,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    uploads: HashMap<String, Upload>,
    bytes: u64,
}

struct Upload {
    content: BytesMut,
    touched_ms: u64,
}

impl Uploads {
    pub fn new(bytes_max: u64, one_bytes_max: u64) -> Self {
        Self { bytes_max, one_bytes_max, held: Mutex::default() }
    }

    /// Bytes held of that upload.
    pub fn put(&self, piece: &PutBodyRequest, now_ms: u64) -> Result<u64, Error> {
        if piece.upload_id.is_empty() || piece.upload_id.len() > UPLOAD_ID_BYTES_MAX {
            return Err(Error::invalid("upload_id", format!("not 1 to {UPLOAD_ID_BYTES_MAX} bytes")));
        }
        if piece.content.len() > INLINE_BYTES_MAX {
            return Err(Error::invalid("content", format!("larger than {INLINE_BYTES_MAX} bytes")));
        }
        let mut held = self.lock();
        held.end_unused(now_ms);
        let size = held.uploads.get(&piece.upload_id).map_or(0, |upload| upload.content.len() as u64);
        let end = piece.offset.saturating_add(piece.content.len() as u64);
        if piece.offset > size {
            return Err(Error::invalid(
                "offset",
                format!("{} would leave a hole: {size} bytes are held", piece.offset),
            ));
        }
        if end > self.one_bytes_max {
            return Err(Error::invalid("offset", format!("a body may have {} bytes", self.one_bytes_max)));
        }
        if end <= size && size > 0 {
            return Ok(size);
        }
        if held.bytes + (end - size) > self.bytes_max {
            return Err(Error::Full { limit: "queue.upload_bytes_max", value: self.bytes_max });
        }
        if held.uploads.len() >= UPLOADS_MAX && size == 0 {
            return Err(Error::Full { limit: "uploads at once", value: UPLOADS_MAX as u64 });
        }
        held.bytes += end - size;
        let fresh = || Upload { content: BytesMut::new(), touched_ms: now_ms };
        let upload = held.uploads.entry(piece.upload_id.clone()).or_insert_with(fresh);
        upload.content.extend_from_slice(&piece.content[(size - piece.offset) as usize..]);
        upload.touched_ms = now_ms;
        Ok(end)
    }

    /// What has been put, which stays.
    pub fn get(&self, id: &str) -> Option<Bytes> {
        // A copy: large bodies are few, and pieces may still be coming.
        self.lock().uploads.get(id).map(|upload| Bytes::copy_from_slice(&upload.content))
    }

    pub fn remove(&self, id: &str) {
        let mut held = self.lock();
        if let Some(gone) = held.uploads.remove(id) {
            held.bytes -= gone.content.len() as u64;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn end_unused(&mut self, now_ms: u64) {
        let bytes = &mut self.bytes;
        self.uploads.retain(|_, upload| {
            let keep = upload.touched_ms.saturating_add(UNUSED_MS_MAX) > now_ms;
            if !keep {
                *bytes -= upload.content.len() as u64;
            }
            keep
        });
    }
}

/// Streams a body from the spool; each piece is read when it is asked for.
pub async fn read(node: &Arc<Node>, request: &ReadBodyRequest) -> Result<Replies<ReadBodyResponse>, Error> {
    let id = MessageId::try_from(&request.message_id).map_err(|invalid| Error::invalid("message_id", invalid))?;
    let first = piece(node, id, request.offset).await?;
    let start = State { node: node.clone(), id, ready: Some(first), offset: request.offset };
    Ok(Box::pin(stream::unfold(Some(start), |state| async move { state?.next().await })))
}

struct State {
    node: Arc<Node>,
    id: MessageId,
    /// The first piece, which has been read to know whether there is a body.
    ready: Option<(Bytes, u64)>,
    offset: u64,
}

impl State {
    /// One more piece, and what is left to do.
    async fn next(mut self) -> Option<(Result<ReadBodyResponse, Status>, Option<Self>)> {
        let piece = match self.ready.take() {
            Some(ready) => Ok(ready),
            None => piece(&self.node, self.id, self.offset).await,
        };
        match piece {
            Err(error) => Some((Err(error.into()), None)),
            Ok((content, body_bytes)) => {
                self.offset += content.len() as u64;
                let more = self.offset < body_bytes && !content.is_empty();
                Some((Ok(ReadBodyResponse { content }), more.then_some(self)))
            }
        }
    }
}

async fn piece(node: &Node, id: MessageId, offset: u64) -> Result<(Bytes, u64), Error> {
    match node.spool.read_body(id.0, offset, INLINE_BYTES_MAX).await? {
        Piece::Found { bytes, body_bytes } => Ok((bytes, body_bytes)),
        Piece::Missing => Err(Error::NotFound { what: format!("the body of {id}") }),
        Piece::Damaged => Err(Error::Damaged(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(id: &str, offset: u64, content: &'static [u8]) -> PutBodyRequest {
        PutBodyRequest { upload_id: id.into(), offset, content: Bytes::from_static(content) }
    }

    #[test]
    fn pieces_come_in_order_and_again() {
        let uploads = Uploads::new(100, 10);
        assert_eq!(uploads.put(&piece("a", 0, b"abc"), 0), Ok(3));
        assert_eq!(uploads.put(&piece("a", 0, b"abc"), 0), Ok(3));
        assert_eq!(uploads.put(&piece("a", 2, b"cde"), 0), Ok(5));
        assert!(uploads.put(&piece("a", 6, b"x"), 0).is_err());
        assert!(uploads.put(&piece("a", 5, b"123456"), 0).is_err());
        assert_eq!(uploads.get("a").unwrap(), "abcde");
        uploads.remove("a");
        assert_eq!((uploads.get("a"), uploads.lock().bytes), (None, 0));
    }

    #[test]
    fn their_sum_is_bounded_and_unused_ones_end() {
        let uploads = Uploads::new(5, 5);
        assert_eq!(uploads.put(&piece("a", 0, b"abc"), 0), Ok(3));
        assert!(matches!(uploads.put(&piece("b", 0, b"abc"), 1), Err(Error::Full { .. })));
        assert_eq!(uploads.put(&piece("b", 0, b"abc"), UNUSED_MS_MAX), Ok(3));
        assert_eq!(uploads.get("a"), None);
    }
}
