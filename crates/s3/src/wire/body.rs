//! Bytes on their way to the server: each piece that is taken shows that the request gets on.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use bytes::Bytes;
use dcbuild_store::Progress;
use http_body::{Body, Frame, SizeHint};

/// Pieces are small enough for a slow line to take one within the deadline.
const PIECE_BYTES: usize = 128 << 10;

struct Sent {
    left: Bytes,
    progress: Progress,
}

/// The body of a request.
pub(super) fn body(bytes: &Bytes, progress: Progress) -> ByteStream {
    ByteStream::new(SdkBody::from_body_1_x(Sent { left: bytes.clone(), progress }))
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        self.progress.made();
        let length = self.left.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.left.len()).unwrap_or(u64::MAX))
    }
}
