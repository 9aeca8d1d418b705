//! Build contexts: files, folders, links and pipes as a test describes them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use filetime::FileTime;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde::Deserialize;

/// What a context's file carries that says nothing of its time; the nanoseconds show where they get lost.
const MTIME: FileTime = FileTime::from_unix_time(1_577_836_800, 123_456_789);

/// What lies at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A file.
    #[default]
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
    /// Another name of an earlier file.
    Hardlink,
    /// A named pipe.
    Fifo,
}

/// One path of a context.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextEntry {
    /// Where.
    pub path: String,
    /// What.
    #[serde(rename = "type", default)]
    pub kind: EntryKind,
    /// Octal; 0644 or 0755 where absent.
    pub mode: Option<String>,
    /// A file's text.
    pub content: Option<String>,
    /// A file's bytes.
    pub content_hex: Option<String>,
    /// Where a link leads.
    pub link: Option<String>,
    /// Whole seconds.
    pub mtime: Option<i64>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
}

impl ContextEntry {
    /// A file with default rights.
    pub fn file(path: &str, content: &str) -> ContextEntry {
        let content = Some(content.to_owned());
        ContextEntry { path: path.to_owned(), content, ..ContextEntry::default() }
    }

    fn bytes(&self) -> Vec<u8> {
        match &self.content_hex {
            Some(text) => hex::decode(text).unwrap(),
            None => self.content.clone().unwrap_or_default().into_bytes(),
        }
    }

    fn make(&self, root: &Path) {
        let path = root.join(&self.path);
        let link = self.link.as_deref().unwrap_or_default();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match self.kind {
            EntryKind::File => std::fs::write(&path, self.bytes()).unwrap(),
            EntryKind::Dir => std::fs::create_dir_all(&path).unwrap(),
            EntryKind::Symlink => std::os::unix::fs::symlink(link, &path).unwrap(),
            EntryKind::Hardlink => std::fs::hard_link(root.join(link), &path).unwrap(),
            EntryKind::Fifo => {
                mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            }
        }
    }

    fn set_rights(&self, root: &Path) {
        let path = root.join(&self.path);
        if self.uid.is_some() || self.gid.is_some() {
            std::os::unix::fs::lchown(&path, self.uid, self.gid).unwrap();
        }
        if matches!(self.kind, EntryKind::Symlink | EntryKind::Hardlink) {
            return;
        }
        let default = if self.kind == EntryKind::Dir { 0o755 } else { 0o644 };
        let mode = self.mode.as_deref().map(|text| u32::from_str_radix(text, 8).unwrap());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode.unwrap_or(default)))
            .unwrap();
    }
}

/// Gives every path below the time that says nothing.
fn reset_times(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            std::fs::set_permissions(entry.path(), PermissionsExt::from_mode(0o755)).unwrap();
            reset_times(&entry.path());
        }
        filetime::set_symlink_file_times(entry.path(), MTIME, MTIME).unwrap();
    }
}

/// Writes a context into the folder, which is made.
pub fn write_context(root: &Path, entries: &[ContextEntry]) {
    std::fs::create_dir_all(root).unwrap();
    for entry in entries {
        entry.make(root);
    }
    reset_times(root);
    for entry in entries {
        entry.set_rights(root);
        if let Some(secs) = entry.mtime {
            let time = FileTime::from_unix_time(secs, 0);
            filetime::set_symlink_file_times(root.join(&entry.path), time, time).unwrap();
        }
    }
}
