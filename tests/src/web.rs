//! A web server on loopback: files of a folder with their entity tags and dates, redirects, and git repositories by
//! `git http-backend`, as a forge serves them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;

/// The date that every file has.
pub const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
/// The same in seconds.
pub const CHANGED_SECS: i64 = 784_111_777;

/// The server; it ends with the test's process.
#[derive(Debug)]
pub struct Web {
    /// Its address, with the port.
    pub host: String,
    folder: TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Web {
    /// Starts one that serves nothing yet.
    pub fn start() -> Web {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (root, log) = (folder.path().to_owned(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (root, log) = (root.clone(), log.clone());
                std::thread::spawn(move || {
                    // A client may go in the middle.
                    drop(serve(stream, &root, &log));
                });
            }
        });
        Web { host, folder, asked }
    }

    /// Where its files lie.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a file there.
    pub fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// The URL of a file; below `moved/` each is a redirect to the one behind that, below `closed/` nobody is let in,
    /// below `ill/` the server is not well, and `who` holds what the client said
    /// of itself in the header `Authorization`.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.host)
    }

    /// What was asked so far, as `METHOD PATH STATUS`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Asked {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }
}

fn read(stream: &TcpStream) -> std::io::Result<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let mut asked = Asked { method, path, query, headers, body: Vec::new() };
    if asked.header("transfer-encoding") == "chunked" {
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
            reader.by_ref().take(size).read_to_end(&mut asked.body)?;
            reader.read_line(&mut line)?;
            if size == 0 {
                break;
            }
        }
    } else {
        let size = asked.header("content-length").parse().unwrap_or(0);
        reader.take(size).read_to_end(&mut asked.body)?;
    }
    Ok(asked)
}

fn serve(mut stream: TcpStream, root: &Path, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let asked = read(&stream)?;
    let (status, headers, body) = answer(&asked, root);
    let line = format!("{} {} {status}", asked.method, asked.path);
    log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    let headers: String = headers.iter().flat_map(|header| [header.as_str(), "\r\n"]).collect();
    let size = body.len();
    let head = format!(
        "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {size}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}

type Answered = (u16, Vec<String>, Vec<u8>);

fn answer(asked: &Asked, root: &Path) -> Answered {
    let path = asked.path.trim_start_matches('/');
    if let Some(rest) = path.strip_prefix("moved/") {
        return (302, vec![format!("Location: /{rest}")], Vec::new());
    }
    if path.starts_with("closed/") {
        return (401, vec!["WWW-Authenticate: Basic realm=\"x\"".into()], Vec::new());
    }
    if path.starts_with("ill/") {
        return (503, Vec::new(), Vec::new());
    }
    if let Some(rest) = path.strip_prefix("private/") {
        if asked.header("authorization").is_empty() {
            return (401, vec!["WWW-Authenticate: Basic realm=\"x\"".into()], Vec::new());
        }
        return repository(asked, root, rest);
    }
    if path.contains(".git/") {
        return repository(asked, root, path);
    }
    if path == "who" {
        return (200, Vec::new(), asked.header("authorization").as_bytes().to_vec());
    }
    let Ok(body) = std::fs::read(root.join(path)) else { return (404, Vec::new(), Vec::new()) };
    let etag = format!(
        "\"{:x}\"",
        body.iter().fold(7_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte))
    );
    let headers = vec![format!("ETag: {etag}"), format!("Last-Modified: {CHANGED}")];
    if asked.header("if-none-match") == etag {
        return (304, headers, Vec::new());
    }
    (200, headers, body)
}

fn repository(asked: &Asked, root: &Path, path: &str) -> Answered {
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REQUEST_METHOD", &asked.method)
        .env("PATH_INFO", format!("/{path}"))
        .env("QUERY_STRING", &asked.query)
        .env("CONTENT_TYPE", asked.header("content-type"))
        .env("HTTP_CONTENT_ENCODING", asked.header("content-encoding"))
        .env("GIT_PROTOCOL", asked.header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git is installed: cargo xtask setup tests");
    let mut stdin = child.stdin.take().unwrap();
    let body = asked.body.clone();
    let fed = std::thread::spawn(move || drop(stdin.write_all(&body)));
    let output = child.wait_with_output().unwrap();
    fed.join().unwrap();
    let end = output.stdout.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0);
    let head = String::from_utf8_lossy(&output.stdout[..end]).into_owned();
    let status =
        head.lines().find_map(|line| line.strip_prefix("Status: ")?.get(..3)?.parse().ok());
    let headers =
        head.lines().filter(|line| !line.starts_with("Status: ")).map(str::to_owned).collect();
    (status.unwrap_or(200), headers, output.stdout[end + 4..].to_vec())
}

/// Runs git in a folder, as a user with a name of their own.
pub fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@example.com")])
        .envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@example.com")])
        .args([
            "-c",
            "init.defaultBranch=main",
            "-c",
            "protocol.file.allow=always",
            "-c",
            "safe.directory=*",
        ])
        .args(arguments)
        .output()
        .expect("git is installed: cargo xtask setup tests");
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Web {
    /// Makes a repository that is served as `NAME.git`, and gives the folder where its commits are made.
    pub fn repository(&self, name: &str) -> Repository {
        let work = tempfile::tempdir().unwrap();
        git(work.path(), &["init", "--quiet", "."]);
        let bare = self.path(&format!("{name}.git"));
        let repository = Repository { work, bare };
        git(
            self.folder.path(),
            &["init", "--quiet", "--bare", &repository.bare.display().to_string()],
        );
        repository
    }
}

/// A repository that is served.
#[derive(Debug)]
pub struct Repository {
    work: TempDir,
    bare: PathBuf,
}

impl Repository {
    /// Writes files, commits them and makes them visible; gives the commit.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, text) in files {
            let path = self.work.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        self.run(&["add", "--all"]);
        self.run(&["commit", "--quiet", "--message", "more"]);
        self.publish();
        self.run(&["rev-parse", "HEAD"])
    }

    /// Runs git where commits are made.
    pub fn run(&self, arguments: &[&str]) -> String {
        git(self.work.path(), arguments)
    }

    /// Where commits are made.
    pub fn work(&self) -> &Path {
        self.work.path()
    }

    /// Makes every branch and tag visible.
    pub fn publish(&self) {
        let bare = self.bare.display().to_string();
        self.run(&["push", "--quiet", "--force", "--all", &bare]);
        self.run(&["push", "--quiet", "--force", "--tags", &bare]);
    }
}
