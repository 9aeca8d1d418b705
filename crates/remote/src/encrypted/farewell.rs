//! What a client hears that speaks no TLS where only TLS is spoken, in words of its own protocol.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What a client says first that speaks HTTP/2, and the frames of HTTP/2 that it takes to answer one.
const PREFACE_BYTES: usize = 24;
const PREFACE_STARTS: &[u8] = b"PRI ";
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const ACKNOWLEDGED: u8 = 1;
const ENDS_ALL: u8 = 5;
/// The answer of gRPC: a precondition failed.
const STATUS: &str = "9";
const WORDS: &str = "this port speaks TLS only: write https:// in place of http://";
/// How long and how much is read of such a client, so that it hears the answer.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES: u64 = 64 << 10;

/// Answers the first request in the clear, whatever it is.
pub(super) async fn say_goodbye(stream: &mut TcpStream) -> io::Result<()> {
    let mut start = [0; PREFACE_STARTS.len()];
    // No request of either kind is shorter.
    stream.read_exact(&mut start).await?;
    if start == *PREFACE_STARTS { answer_calls(stream).await } else { answer_pages(stream).await }
}

async fn answer_pages(stream: &mut TcpStream) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{WORDS}\n",
        WORDS.len() + 1
    );
    stream.write_all(answer.as_bytes()).await?;
    linger(stream).await
}

async fn answer_calls(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&frame((SETTINGS, 0), 0, &[])).await?;
    stream.read_exact(&mut [0; PREFACE_BYTES - PREFACE_STARTS.len()]).await?;
    let request = loop {
        let mut head = [0; FRAME_HEAD];
        stream.read_exact(&mut head).await?;
        let [high, middle, low, kind, _, id @ ..] = head;
        let len = u64::from(u32::from_be_bytes([0, high, middle, low]));
        tokio::io::copy(&mut (&mut *stream).take(len), &mut tokio::io::sink()).await?;
        if kind == HEADERS {
            break u32::from_be_bytes(id);
        }
    };
    // The first is `:status: 200`; the others stand in full, each after a zero that says so.
    let mut fields = vec![0x88];
    let named =
        [("content-type", "application/grpc"), ("grpc-status", STATUS), ("grpc-message", WORDS)];
    for text in named.iter().flat_map(|(name, value)| [None, Some(name), Some(value)]) {
        let text = text.copied().unwrap_or_default();
        fields.push(u8::try_from(text.len()).unwrap_or(0));
        fields.extend_from_slice(text.as_bytes());
    }
    let mut answer = frame((SETTINGS, ACKNOWLEDGED), 0, &[]);
    answer.extend_from_slice(&frame((HEADERS, ENDS_ALL), request, &fields));
    stream.write_all(&answer).await?;
    linger(stream).await
}

fn frame((kind, flags): (u8, u8), stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut bytes = len.get(1..).unwrap_or_default().to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Waits until the client has gone: with bytes unread, the system would break the connection and take the answer back.
pub(super) async fn linger(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = stream.take(FAREWELL_BYTES);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map(drop)
}
