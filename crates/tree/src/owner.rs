//! `--chown` and USER: names and numbers to numbers.

#[cfg(test)]
mod tests;

/// Where names are looked up.
#[derive(Clone, Copy, Debug)]
pub enum Accounts<'a> {
    /// Nowhere: the stage is still `FROM scratch` without a layer.
    Scratch,
    /// Nowhere: a step with `--link` does not see the stage.
    Linked,
    /// In the files of the stage, as far as they are there.
    Files {
        /// `/etc/passwd`.
        passwd: Option<&'a [u8]>,
        /// `/etc/group`.
        group: Option<&'a [u8]>,
    },
}

/// Says why an owner has no numbers.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum OwnerError {
    /// A name, and no file system to look it up in.
    #[error("'{name}' cannot be looked up: there is no /etc/passwd in an empty stage")]
    NoAccounts {
        /// The name.
        name: String,
    },
    /// A name, and a step that does not see where it could be looked up.
    #[error(
        "'{name}' cannot be looked up: --link does not see the stage's /etc/passwd; write the number, or leave --link out"
    )]
    Linked {
        /// The name.
        name: String,
    },
    /// A number past 32 bits.
    #[error("'{text}' is too large for a user or group id")]
    TooLarge {
        /// The number.
        text: String,
    },
}

/// Finds the ids of `user`, `user:group` and the like.
///
/// Digits are never looked up, nor is `root`, which is 0 whatever the files say; a number alone is the group too. A name brings its group along; an unknown user is
/// 0, an unknown group is the user's. Nothing after the colon is group 0.
pub fn resolve_owner(spec: &str, accounts: Accounts<'_>) -> Result<(u32, u32), OwnerError> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let (uid, user_gid) = match number(user)? {
        Some(id) => (id, id),
        None => user_ids(user, accounts)?,
    };
    let gid = match group {
        None => user_gid,
        Some("") => 0,
        Some(group) => match number(group)? {
            Some(id) => id,
            None => group_id(group, accounts)?.unwrap_or(user_gid),
        },
    };
    Ok((uid, gid))
}

fn number(text: &str) -> Result<Option<u32>, OwnerError> {
    if text == "root" {
        return Ok(Some(0));
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(id) => Ok(Some(id)),
        Err(_) => Err(OwnerError::TooLarge { text: text.to_owned() }),
    }
}

fn user_ids(name: &str, accounts: Accounts<'_>) -> Result<(u32, u32), OwnerError> {
    let passwd = match accounts {
        Accounts::Scratch | Accounts::Linked if name.is_empty() => None,
        Accounts::Scratch => return Err(OwnerError::NoAccounts { name: name.to_owned() }),
        Accounts::Linked => return Err(OwnerError::Linked { name: name.to_owned() }),
        Accounts::Files { passwd, .. } => passwd,
    };
    let ids = |fields: &[&str]| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?));
    Ok(passwd.and_then(|file| line_of(name, file, ids)).unwrap_or((0, 0)))
}

fn group_id(name: &str, accounts: Accounts<'_>) -> Result<Option<u32>, OwnerError> {
    let group = match accounts {
        Accounts::Scratch => return Err(OwnerError::NoAccounts { name: name.to_owned() }),
        Accounts::Linked => return Err(OwnerError::Linked { name: name.to_owned() }),
        Accounts::Files { group, .. } => group,
    };
    Ok(group.and_then(|file| line_of(name, file, |fields| fields.get(2)?.parse().ok())))
}

/// The first line of a file of colons that has this name and reads well.
fn line_of<T>(name: &str, file: &[u8], read: impl Fn(&[&str]) -> Option<T>) -> Option<T> {
    file.split(|byte| *byte == b'\n').find_map(|line| {
        let line = std::str::from_utf8(line).ok()?;
        let fields: Vec<&str> = line.trim().split(':').collect();
        if fields.first() == Some(&name) { read(&fields) } else { None }
    })
}
