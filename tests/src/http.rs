//! As much of HTTP as it takes to fill a registry, without a library that dcbuild uses itself.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dcbuild_testkit::tls::Pair;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, names in small letters.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Sends one request over a connection of its own; `headers` are whole lines.
pub fn request(host: &str, line: &str, headers: &[&str], body: &[u8]) -> Answer {
    talk(connect(host), host, (line, headers, body)).unwrap()
}

/// What one who asks over TLS knows the server by, and is known by.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    /// The CA of the server.
    pub ca: &'a Path,
    /// The certificate that is shown.
    pub shown: Option<&'a Pair>,
}

impl Guest<'_> {
    /// Sends one request without a body over TLS.
    pub fn request(&self, host: &str, line: &str) -> io::Result<Answer> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).to_owned();
        let name = ServerName::try_from(name).unwrap();
        let session = ClientConnection::new(Arc::new(self.config()), name).unwrap();
        talk(StreamOwned::new(session, connect(host)), host, (line, &[], b""))
    }

    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        match self.shown {
            None => builder.with_no_client_auth(),
            Some(Pair { cert, key }) => {
                let chain = vec![CertificateDer::from_pem_file(cert).unwrap()];
                let key = PrivateKeyDer::from_pem_file(key).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }
}

fn connect(host: &str) -> TcpStream {
    let stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    stream
}

fn talk(
    mut stream: impl Read + Write,
    host: &str,
    (line, headers, body): (&str, &[&str], &[u8]),
) -> io::Result<Answer> {
    let headers: String = headers.iter().flat_map(|header| [header, "\r\n"]).collect();
    // HTTP/1.0 has no chunks: the body ends where the connection does.
    let head = format!(
        "{line} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    // Some who speak TLS go without a word of farewell.
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !answer.is_empty() => {}
        read => drop(read?),
    }
    Ok(parse(&answer))
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap().parse().unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    Answer { status, headers, body: bytes[end + 4..].to_vec() }
}
