//! Who a step runs as: USER's text against the tree's own passwd and group files.

/// Whom a program runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// All groups that count, the main one first.
    pub groups: Vec<u32>,
    /// The home folder.
    pub home: String,
}

/// Says why a USER names nobody.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveUserError {
    /// There is no such name.
    #[error("unable to find user {name}: no matching entries in passwd file")]
    NoUser {
        /// The name.
        name: String,
    },
    /// There is no such group.
    #[error("unable to find group {name}: no matching entries in group file")]
    NoGroup {
        /// The name.
        name: String,
    },
    /// A number is too big.
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
}

struct Account<'a> {
    name: &'a str,
    id: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    id: u32,
    members: &'a str,
}

/// Resolves `USER` text, `name[:group]`, each a name or a number; an empty name is root.
pub fn resolve_user(text: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, ResolveUserError> {
    let (passwd, group) = (String::from_utf8_lossy(passwd), String::from_utf8_lossy(group));
    let (user, wanted) = text.split_once(':').unwrap_or((text, ""));
    let user_number = number(user)?;
    // A number is never a name, as with runc.
    let found = accounts(&passwd).find(|account| match user_number {
        Some(number) => account.id == number,
        None if user.is_empty() => account.id == 0,
        None => account.name == user,
    });
    let (uid, own_gid, home) = match (&found, user_number) {
        (Some(account), _) => (account.id, account.gid, account.home),
        (None, Some(uid)) => (uid, 0, "/"),
        (None, None) if user.is_empty() => (0, 0, "/"),
        (None, None) => return Err(ResolveUserError::NoUser { name: user.to_owned() }),
    };
    let mut identity = Identity { uid, gid: own_gid, groups: Vec::new(), home: home.to_owned() };
    if wanted.is_empty() {
        identity.groups.push(own_gid);
        let name = found.map_or("", |account| account.name);
        for entry in groups(&group) {
            let member = !name.is_empty() && entry.members.split(',').any(|each| each == name);
            if member && !identity.groups.contains(&entry.id) {
                identity.groups.push(entry.id);
            }
        }
        return Ok(identity);
    }
    let group_number = number(wanted)?;
    identity.gid = groups(&group)
        .find(|entry| group_number.map_or(entry.name == wanted, |number| entry.id == number))
        .map(|entry| entry.id)
        .or(group_number)
        .ok_or_else(|| ResolveUserError::NoGroup { name: wanted.to_owned() })?;
    identity.groups.push(identity.gid);
    Ok(identity)
}

/// A number in the range of ids, or none for a name.
fn number(text: &str) -> Result<Option<u32>, ResolveUserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<i32>().ok().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok(Some(id)),
        None => Err(ResolveUserError::Range),
    }
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let id = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).filter(|home| !home.is_empty()).unwrap_or("/");
        Some(Account { name, id, gid, home })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let id = fields.nth(1)?.parse().ok()?;
        Some(Group { name, id, members: fields.next().unwrap_or("") })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nbroken\n::1\nnobody:x:65534:65534:nobody:/:/bin/false\n12:x:13:13::/:/bin/sh\nbob:x:77:88::/home/bob:/bin/sh\n";
    const GROUP: &[u8] = b"root:x:0:\nnobody:x:65534:\nwheel:x:10:root,bob\naudio:x:29:bob\n";

    #[test]
    fn users_are_found() {
        let table = [
            ("", "0:0 [0, 10] /root"),
            ("nobody", "65534:65534 [65534] /"),
            ("nobody:", "65534:65534 [65534] /"),
            (":root", "0:0 [0] /root"),
            ("bob", "77:88 [88, 10, 29] /home/bob"),
            ("77", "77:88 [88, 10, 29] /home/bob"),
            ("bob:wheel", "77:10 [10] /home/bob"),
            ("12", "12:0 [0] /"),
            ("0012", "12:0 [0] /"),
            ("12:34", "12:34 [34] /"),
            ("nosuchuser", "unable to find user nosuchuser: no matching entries in passwd file"),
            ("root:nope", "unable to find group nope: no matching entries in group file"),
            ("4294967294", "uids and gids must be in range 0-2147483647"),
            ("99999999999999999999", "uids and gids must be in range 0-2147483647"),
        ];
        for (text, expected) in table {
            let got = match resolve_user(text, PASSWD, GROUP) {
                Ok(id) => format!("{}:{} {:?} {}", id.uid, id.gid, id.groups, id.home),
                Err(error) => error.to_string(),
            };
            assert_eq!(got, expected, "{text}");
        }
    }

    #[test]
    fn without_files_root_is_root() {
        let id = resolve_user("", b"", b"").unwrap();
        assert_eq!((id.uid, id.gid, id.home.as_str()), (0, 0, "/"));
    }
}
