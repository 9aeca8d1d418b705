//! Objects as files, as `s3s-fs` keeps them, with what it lacks: checksums are compared before anything is kept, and
//! uploads in parts are listed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use futures::StreamExt;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Crc32, Sha256};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput,
    DeleteObjectsOutput, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput,
    HeadObjectInput, HeadObjectOutput, ListMultipartUploadsInput, ListMultipartUploadsOutput,
    ListObjectsV2Input, ListObjectsV2Output, MultipartUpload, PutObjectInput, PutObjectOutput,
    StreamingBlob, UploadPartInput, UploadPartOutput,
};
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

/// Marks a request whose body is to be cut without anybody noticing.
#[derive(Clone, Copy, Debug)]
pub struct Cut;

/// Marks a listing of whose beginning the server forgets something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forgotten {
    /// The key to begin behind.
    StartAfter,
    /// Whatever names a place; it always says that there is more.
    Place,
}

/// The uploads in parts that are under way.
#[derive(Clone, Debug, Default)]
pub struct Uploads(Arc<Mutex<BTreeMap<String, Begun>>>);

#[derive(Clone, Debug)]
struct Begun {
    key: String,
    at: SystemTime,
}

impl Uploads {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[expect(clippy::disallowed_methods, reason = "a server has a clock of its own")]
    fn begin(&self, id: &str, key: &str) {
        let begun = Begun { key: key.into(), at: SystemTime::now() };
        self.0.lock().unwrap().insert(id.into(), begun);
    }

    fn end(&self, id: &str) {
        self.0.lock().unwrap().remove(id);
    }

    /// By key, as S3 lists them.
    fn list(&self, prefix: &str) -> Vec<MultipartUpload> {
        let uploads = self.0.lock().unwrap();
        let below = uploads.iter().filter(|(_, begun)| begun.key.starts_with(prefix));
        let listed = below.map(|(id, begun)| MultipartUpload {
            key: Some(begun.key.clone()),
            upload_id: Some(id.clone()),
            initiated: Some(begun.at.into()),
            ..Default::default()
        });
        let mut listed: Vec<MultipartUpload> = listed.collect();
        listed
            .sort_by(|one, other| (&one.key, &one.upload_id).cmp(&(&other.key, &other.upload_id)));
        listed
    }
}

/// What answers requests that nothing happens to.
pub(super) struct Backend {
    folder: PathBuf,
    files: FileSystem,
    uploads: Uploads,
}

impl Backend {
    pub(super) fn new(folder: &Path, uploads: Uploads) -> Backend {
        Backend { folder: folder.into(), files: FileSystem::new(folder).unwrap(), uploads }
    }

    /// `s3s-fs` makes a bucket that is not there.
    fn check_bucket(&self, bucket: &str) -> S3Result<()> {
        if self.folder.join(bucket).is_dir() {
            return Ok(());
        }
        Err(s3_error!(NoSuchBucket))
    }
}

/// All of a body, or half of it where it is to be cut.
async fn whole(body: Option<StreamingBlob>, is_cut: bool) -> S3Result<Vec<u8>> {
    let mut body = body.ok_or_else(|| s3_error!(IncompleteBody))?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece.map_err(|_| s3_error!(IncompleteBody))?);
    }
    if is_cut {
        bytes.truncate(bytes.len() / 2);
    }
    Ok(bytes)
}

fn compare(bytes: &[u8], crc32: Option<&String>, sha256: Option<&String>) -> S3Result<()> {
    let mut hasher = ChecksumHasher {
        crc32: crc32.map(|_| Crc32::default()),
        sha256: sha256.map(|_| Sha256::default()),
        ..Default::default()
    };
    hasher.update(bytes);
    let found = hasher.finalize();
    if found.checksum_crc32.as_ref() == crc32 && found.checksum_sha256.as_ref() == sha256 {
        return Ok(());
    }
    Err(s3_error!(BadDigest, "the checksum is another"))
}

fn blob(bytes: Vec<u8>) -> StreamingBlob {
    StreamingBlob::from(Body::from(bytes))
}

#[async_trait::async_trait]
impl S3 for Backend {
    async fn put_object(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let is_cut = request.extensions.get::<Cut>().is_some();
        let input = &mut request.input;
        self.check_bucket(&input.bucket)?;
        let bytes = whole(input.body.take(), is_cut).await?;
        if is_cut {
            input.checksum_sha256 = None;
        }
        compare(&bytes, input.checksum_crc32.as_ref(), input.checksum_sha256.as_ref())?;
        input.body = Some(blob(bytes));
        self.files.put_object(request).await
    }

    async fn upload_part(
        &self,
        mut request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let is_cut = request.extensions.get::<Cut>().is_some();
        let input = &mut request.input;
        self.check_bucket(&input.bucket)?;
        let bytes = whole(input.body.take(), is_cut).await?;
        if !is_cut {
            compare(&bytes, input.checksum_crc32.as_ref(), input.checksum_sha256.as_ref())?;
        }
        input.body = Some(blob(bytes));
        self.files.upload_part(request).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let key = request.input.key.clone();
        let begun = self.files.create_multipart_upload(request).await?;
        self.uploads.begin(begun.output.upload_id.as_deref().unwrap_or_default(), &key);
        Ok(begun)
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let id = request.input.upload_id.clone();
        let completed = self.files.complete_multipart_upload(request).await?;
        self.uploads.end(&id);
        Ok(completed)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let id = request.input.upload_id.clone();
        let aborted = self.files.abort_multipart_upload(request).await?;
        self.uploads.end(&id);
        Ok(aborted)
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let is_again = request.extensions.get::<Forgotten>() == Some(&Forgotten::Place);
        let uploads = self.uploads.list(request.input.prefix.as_deref().unwrap_or_default());
        let bucket = Some(request.input.bucket);
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket,
            uploads: Some(uploads),
            is_truncated: Some(is_again),
            ..Default::default()
        }))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        self.files.get_object(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.files.head_object(request).await
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.files.head_bucket(request).await
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        self.files.copy_object(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.files.delete_object(request).await
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.files.delete_objects(request).await
    }

    async fn list_objects_v2(
        &self,
        mut request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let forgotten = request.extensions.get::<Forgotten>().copied();
        if forgotten.is_some() {
            request.input.start_after = None;
        }
        if forgotten == Some(Forgotten::Place) {
            request.input.continuation_token = None;
        }
        self.files.list_objects_v2(request).await
    }
}
