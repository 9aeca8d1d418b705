//! The values of `--ssh`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dcbuild_process::Env;

use super::malformed;
use crate::FlagError;

/// Where the keys of an ssh agent are: one socket, or key files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentSource {
    /// The files.
    pub paths: Vec<PathBuf>,
}

/// Reads agents: `ID[=SOCKET|KEY[,KEY...]]`; without a file the agent of the environment.
pub(crate) fn agents(
    given: &[String],
    env: &Env,
) -> Result<BTreeMap<String, AgentSource>, FlagError> {
    const FLAG: &str = "ssh";
    let mut agents = BTreeMap::new();
    for text in given {
        let bad =
            |problem: &str| malformed(FLAG, text, problem, "--ssh default or default=KEYFILE");
        let (id, files) = match text.split_once('=') {
            Some((id, files)) => (id, Some(files)),
            None => (text.as_str(), None),
        };
        if id.is_empty() {
            return Err(bad("it has no id"));
        }
        let paths: Vec<PathBuf> = if let Some(files) = files {
            files.split(',').map(PathBuf::from).collect()
        } else {
            let socket = env.get_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty());
            vec![socket.ok_or_else(|| FlagError::NoAgent { id: id.to_owned() })?.into()]
        };
        if paths.iter().any(|path| path.as_os_str().is_empty()) {
            return Err(bad("a file has no name"));
        }
        if paths.iter().any(|path| path.as_os_str().as_encoded_bytes().starts_with(b"raw=")) {
            let instead = "leave raw= out: an agent is asked to list and to sign, and nothing else";
            return Err(FlagError::Unsupported { flag: FLAG, value: text.clone(), instead });
        }
        if agents.insert(id.to_owned(), AgentSource { paths }).is_some() {
            return Err(bad("its id was given before"));
        }
    }
    Ok(agents)
}
