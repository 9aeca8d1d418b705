//! A bucket of S3 as a store of blobs and objects.
