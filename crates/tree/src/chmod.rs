//! `--chmod`: octal, or symbolic as chmod(1) has it, without the umask.

#[cfg(test)]
mod tests;

/// A change of permissions.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Chmod(Form);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Form {
    Octal(u32),
    Symbolic(Vec<Clause>),
}

/// For some of owner, group and others: one operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Clause {
    /// The bits that belong to whom it is for, special ones with them.
    whom: u32,
    operation: Operation,
    bits: Bits,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Operation {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Bits {
    /// These bits; the flag stands for `X`.
    These { bits: u32, execute_if_any: bool },
    /// What the owner (6), the group (3) or others (0) have, by the place of their bits.
    CopyOf(u32),
}

/// Says why a text is no change of permissions.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChmodError {
    /// It begins like a number and is none.
    #[error("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")]
    Octal {
        /// The text.
        text: String,
    },
    /// It is not what chmod(1) takes.
    #[error("invalid chmod parameter: '{text}': invalid syntax")]
    Symbolic {
        /// The text.
        text: String,
    },
}

impl Chmod {
    /// Reads `755` or `u=rwX,go-w`.
    pub fn parse(text: &str) -> Result<Chmod, ChmodError> {
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o7777 => Ok(Chmod(Form::Octal(mode))),
                _ => Err(ChmodError::Octal { text: text.to_owned() }),
            };
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            clause(part.as_bytes(), &mut clauses)
                .ok_or_else(|| ChmodError::Symbolic { text: text.to_owned() })?;
        }
        Ok(Chmod(Form::Symbolic(clauses)))
    }

    /// The mode that an entry of this mode gets.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let clauses = match &self.0 {
            Form::Octal(mode) => return *mode,
            Form::Symbolic(clauses) => clauses,
        };
        let executes = is_dir || mode & 0o111 != 0;
        clauses.iter().fold(mode, |now, clause| {
            let bits = match clause.bits {
                Bits::These { bits, execute_if_any } => {
                    bits | if execute_if_any && executes { 0o111 } else { 0 }
                }
                Bits::CopyOf(place) => (now >> place & 7) * 0o111,
            } & clause.whom;
            match clause.operation {
                Operation::Add => now | bits,
                Operation::Remove => now & !bits,
                Operation::Set => now & !clause.whom | bits,
            }
        })
    }

    /// The mode of a folder that is made on the way: an octal one's plain bits, otherwise 0755.
    pub fn of_new_folder(&self) -> u32 {
        match &self.0 {
            Form::Octal(mode) => mode & 0o777,
            Form::Symbolic(_) => 0o755,
        }
    }
}

/// Reads what stands between two commas: whom it is for, then operations.
fn clause(text: &[u8], clauses: &mut Vec<Clause>) -> Option<()> {
    let mut rest = text;
    let mut whom = 0;
    while let Some((byte, tail)) = rest.split_first() {
        whom |= match byte {
            b'u' => 0o4700,
            b'g' => 0o2070,
            b'o' => 0o0007,
            b'a' => 0o7777,
            _ => break,
        };
        rest = tail;
    }
    if whom == 0 {
        whom = 0o7777;
    }
    if rest.is_empty() {
        return None;
    }
    while let Some((byte, tail)) = rest.split_first() {
        let operation = match byte {
            b'+' => Operation::Add,
            b'-' => Operation::Remove,
            b'=' => Operation::Set,
            _ => return None,
        };
        let bits;
        (bits, rest) = permissions(tail);
        clauses.push(Clause { whom, operation, bits });
    }
    Some(())
}

fn permissions(text: &[u8]) -> (Bits, &[u8]) {
    if let Some((byte, tail)) = text.split_first() {
        let place = match byte {
            b'u' => Some(6),
            b'g' => Some(3),
            b'o' => Some(0),
            _ => None,
        };
        if let Some(place) = place {
            return (Bits::CopyOf(place), tail);
        }
    }
    let (mut bits, mut execute_if_any) = (0, false);
    let mut rest = text;
    while let Some((byte, tail)) = rest.split_first() {
        match byte {
            b'r' => bits |= 0o444,
            b'w' => bits |= 0o222,
            b'x' => bits |= 0o111,
            b'X' => execute_if_any = true,
            b's' => bits |= 0o6000,
            b't' => bits |= 0o1000,
            _ => break,
        }
        rest = tail;
    }
    (Bits::These { bits, execute_if_any }, rest)
}
