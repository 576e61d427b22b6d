//! Reading a collection: batches as the server sends them, without looking into documents.

use std::sync::Arc;

use backup_core::Context;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::{FindOptions, ReadConcern, SessionOptions};
use mongodb::raw_batch_cursor::RawBatch;
use tokio::sync::mpsc;

use super::archive::{Crc64, Namespace};
use super::catalog::{Size, USERS};
use super::connect::Server;
use super::error::MongoError;
use super::moment::Moment;

/// About how many bytes a batch has. Each of the readers has two on the way.
const BATCH_BYTES: u64 = 4 * 1024 * 1024;
/// Documents in a batch where their size is not known.
const BATCH_DOCUMENTS: u32 = 1000;
/// The most documents that are asked for at once.
const BATCH_DOCUMENTS_MAX: u64 = 100_000;

/// What a reader hands over.
#[derive(Debug)]
pub(super) enum Piece {
    /// Whole documents.
    Documents(Arc<Namespace>, Bytes),
    /// The collection has ended; its documents have this checksum.
    Ended(Arc<Namespace>, i64),
    /// The reader gave up.
    Failed(MongoError),
}

/// How many documents make a batch of the usual size.
pub(super) fn batch_size(size: Size) -> u32 {
    match (size.documents, size.bytes) {
        (Some(documents), Some(bytes)) if documents > 0 && bytes > 0 => {
            let average = bytes.div_ceil(documents);
            (BATCH_BYTES / average).clamp(1, BATCH_DOCUMENTS_MAX) as u32
        }
        _ => BATCH_DOCUMENTS,
    }
}

/// Reads all of a collection and says that it has ended. A receiver that is gone ends it early.
pub(super) async fn collection(
    cx: &Context,
    server: &Server,
    moment: Moment,
    namespace: &Namespace,
    batch_size: u32,
    out: &mpsc::Sender<Piece>,
) -> Result<(), MongoError> {
    let what = format!("reading {namespace}");
    let shared = Arc::new(namespace.clone());
    let collection = server.database(&namespace.db).collection::<RawDocumentBuf>(&namespace.collection);
    let mut options = FindOptions::default();
    options.batch_size = Some(batch_size);
    options.no_cursor_timeout = Some(true);
    let mut crc = Crc64::new();
    if let Moment::Snapshot(time) = moment {
        let session_options =
            SessionOptions::builder().snapshot(true).snapshot_time(time).causal_consistency(false).build();
        let start = async { server.client.start_session().with_options(session_options).await };
        let mut session = server.wait(cx, &what, start).await?;
        let find = collection.find(doc! {}).with_options(options).session(&mut session);
        let mut cursor = server.wait(cx, &what, async { find.batch().await }).await?;
        let mut batches = cursor.stream(&mut session);
        while let Some(batch) = server.wait(cx, &what, async { batches.next().await.transpose() }).await? {
            if !hand_over(&batch, &shared, &mut crc, out).await? {
                return Ok(());
            }
        }
    } else {
        if matches!(moment, Moment::Oplog(_)) {
            // What a failover takes back must not be in the dump.
            options.read_concern = Some(ReadConcern::majority());
        }
        let find = collection.find(doc! {}).with_options(options);
        let mut batches = server.wait(cx, &what, async { find.batch().await }).await?;
        while let Some(batch) = server.wait(cx, &what, async { batches.next().await.transpose() }).await? {
            if !hand_over(&batch, &shared, &mut crc, out).await? {
                return Ok(());
            }
        }
    }
    // Nobody listens any more: then nobody needs to know.
    let _ = out.send(Piece::Ended(shared, crc.value())).await;
    Ok(())
}

async fn hand_over(
    batch: &RawBatch,
    namespace: &Arc<Namespace>,
    crc: &mut Crc64,
    out: &mpsc::Sender<Piece>,
) -> Result<bool, MongoError> {
    let documents = documents_of(batch).ok_or_else(|| MongoError::Answer(format!("reading {namespace}")))?;
    if namespace.db == "admin" && namespace.collection == USERS[0] {
        let users = decoded(batch).ok_or_else(|| MongoError::Answer(format!("reading {namespace}")))?;
        if users.iter().any(|user| !user.contains_key("credentials")) {
            return Err(MongoError::Withheld("the server withholds the credentials of its users"));
        }
    }
    if documents.is_empty() {
        return Ok(true);
    }
    crc.update(&documents);
    Ok(out.send(Piece::Documents(Arc::clone(namespace), documents)).await.is_ok())
}

/// The documents of a batch, back to back.
pub(super) fn documents_of(batch: &RawBatch) -> Option<Bytes> {
    packed(batch.doc_slices().ok()?.as_bytes())
}

/// The documents of a BSON array (<https://bsonspec.org/spec.html>), without the array around them.
fn packed(array: &[u8]) -> Option<Bytes> {
    const DOCUMENT: u8 = 0x03;
    let mut documents = BytesMut::with_capacity(array.len());
    let mut rest = array.get(4..)?;
    loop {
        let (kind, after) = rest.split_first()?;
        match *kind {
            0 => return after.is_empty().then(|| documents.freeze()),
            DOCUMENT => {
                let key = after.iter().position(|byte| *byte == 0)?;
                let value = &after[key + 1..];
                let len = usize::try_from(i32::from_le_bytes(*value.first_chunk()?)).ok()?;
                let document = value.get(..len).filter(|document| document.len() > 4)?;
                documents.extend_from_slice(document);
                rest = &value[len..];
            }
            _ => return None,
        }
    }
}

/// One answer's documents, taken apart.
pub(super) fn decoded(batch: &RawBatch) -> Option<Vec<Document>> {
    let array = batch.doc_slices().ok()?;
    array.into_iter().map(|element| Document::try_from(element.ok()?.as_document()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Bson, RawArrayBuf, RawDocumentBuf};

    use super::*;

    #[test]
    fn documents_leave_their_array_unchanged() {
        let documents: Vec<RawDocumentBuf> = (0..12)
            .map(|i| RawDocumentBuf::try_from(&doc! { "_id": i, "x": { "y": [Bson::Null, "é"] } }).unwrap())
            .collect();
        let array: RawArrayBuf = documents.iter().map(|document| document.as_ref()).collect();
        let packed = packed(array.as_bytes()).unwrap();
        let expected: Vec<u8> = documents.iter().flat_map(|document| document.as_bytes().to_vec()).collect();
        assert_eq!(packed, expected);
        assert_eq!(super::packed(RawArrayBuf::new().as_bytes()).unwrap(), "");
        for cut in 0..array.as_bytes().len() {
            assert!(super::packed(&array.as_bytes()[..cut]).is_none(), "{cut}");
        }
    }

    #[test]
    fn batches_have_about_the_same_bytes() {
        let size = |documents, bytes| batch_size(Size { documents: Some(documents), bytes: Some(bytes) });
        assert_eq!(size(1000, 4_096_000), 1024);
        assert_eq!(size(1, 16 * 1024 * 1024), 1);
        assert_eq!(size(1_000_000, 20_000_000), 100_000);
        assert_eq!(size(0, 0), BATCH_DOCUMENTS);
    }
}
