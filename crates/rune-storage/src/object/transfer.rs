//! Objects on their way from one store to another. A larger one is never in memory as a whole, and what is not what its
//! digest says is never seen under it.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use object_store::{MultipartUpload, ObjectStoreExt as _};
use rune_store_runtime::limits::MAX_OBJECT_BYTES;
use sha2::{Digest as _, Sha256};

use super::{ObjectError, ObjectStore, PART_BYTES, backend_error, finish, give_up, same};
use crate::Digest;

/// The bytes of an object as they are read.
pub type ObjectBytes = BoxStream<'static, Result<Bytes, ObjectError>>;

impl ObjectStore {
    /// The size of an object, and its bytes as they are read. They are not compared with the digest: who stores them
    /// with [`ObjectStore::receive`] does that.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`], [`ObjectError::TooLarge`], [`ObjectError::Backend`].
    pub async fn read(&self, digest: Digest) -> Result<(u64, ObjectBytes), ObjectError> {
        let object = self.open_object(digest).await?;
        let size = object.meta.size;
        let failed = move |source| backend_error("get", digest, source);
        Ok((size, object.into_stream().map_err(failed).boxed()))
    }

    /// Stores what arrives, over what is there, and answers its size. Nothing is stored where it breaks off, is too large, or
    /// is not what the digest says.
    ///
    /// # Errors
    /// Those of the stream, [`ObjectError::Damaged`], [`ObjectError::TooLarge`], [`ObjectError::Backend`].
    pub async fn receive(
        &self,
        digest: Digest,
        bytes: impl Stream<Item = Result<Bytes, ObjectError>> + Send,
    ) -> Result<u64, ObjectError> {
        let mut upload = None;
        let stored = self.store_arriving(digest, bytes, &mut upload).await;
        if stored.is_err()
            && let Some(mut upload) = upload
        {
            give_up(upload.as_mut()).await;
        }
        stored
    }

    /// Uploads in parts what is larger than one, once it is.
    async fn store_arriving(
        &self,
        digest: Digest,
        bytes: impl Stream<Item = Result<Bytes, ObjectError>> + Send,
        upload: &mut Option<Box<dyn MultipartUpload>>,
    ) -> Result<u64, ObjectError> {
        let failed = |source| backend_error("put", digest, source);
        let mut bytes = pin!(bytes);
        let (mut hash, mut size, mut part) = (Sha256::new(), 0, BytesMut::new());
        while let Some(next) = bytes.try_next().await? {
            hash.update(&next);
            size += next.len() as u64;
            if size > MAX_OBJECT_BYTES as u64 {
                return Err(ObjectError::TooLarge { size });
            }
            part.extend_from_slice(&next);
            while part.len() >= PART_BYTES {
                let full = part.split_to(PART_BYTES).freeze();
                let begun = match upload.take() {
                    Some(begun) => begun,
                    None => {
                        let begin = self.backend.put_multipart(&self.path(digest)).await;
                        begin.map_err(failed)?
                    }
                };
                let put = upload.insert(begun).put_part(full.into()).await;
                put.map_err(failed)?;
            }
        }
        same(digest, Digest::from_bytes(hash.finalize().into()))?;
        let last = part.freeze();
        let Some(begun) = upload else {
            self.write(digest, last).await?;
            return Ok(size);
        };
        if !last.is_empty() {
            begun.put_part(last.into()).await.map_err(failed)?;
        }
        let _storing = self.lock(digest).read().await;
        finish(begun.as_mut(), digest).await?;
        Ok(size)
    }

    /// Takes an object over from another store, unless it is here. Answers its size and how many bytes were
    /// written.
    ///
    /// # Errors
    /// As [`ObjectStore::get`] of the other one, [`ObjectError::Backend`].
    pub(crate) async fn copy_from(
        &self,
        source: &Self,
        digest: Digest,
    ) -> Result<(u64, u64), ObjectError> {
        let (size, bytes) = source.read(digest).await?;
        if self.holds(digest, size).await? {
            return Ok((size, 0));
        }
        self.receive(digest, bytes).await?;
        Ok((size, size))
    }

    /// Takes an object over from another store, unless what is here is that object to the last byte.
    ///
    /// # Errors
    /// As [`ObjectStore::get`] of the other one, [`ObjectError::Backend`].
    pub(crate) async fn restore_from(
        &self,
        source: &Self,
        digest: Digest,
    ) -> Result<(), ObjectError> {
        if self.check(digest).await.is_ok() {
            return Ok(());
        }
        let (_, bytes) = source.read(digest).await?;
        self.receive(digest, bytes).await.map(drop)
    }

    /// Reads an object to its end and compares it with its digest. Answers its size.
    ///
    /// # Errors
    /// As [`ObjectStore::get`].
    pub(crate) async fn check(&self, digest: Digest) -> Result<u64, ObjectError> {
        let (size, mut bytes) = self.read(digest).await?;
        let mut hash = Sha256::new();
        while let Some(bytes) = bytes.try_next().await? {
            hash.update(&bytes);
        }
        same(digest, Digest::from_bytes(hash.finalize().into()))?;
        Ok(size)
    }
}
