//! Who a namespace's workers run as: a name or a number, looked up where the machine keeps its own users.

use std::path::PathBuf;

/// A user of the operating system.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Account {
    /// As written: `notes`, `1200`.
    pub name: String,
    /// Number of the user.
    pub uid: u32,
    /// Number of the group; workers have no other.
    pub gid: u32,
    /// The user's own directory, where one is known.
    pub home: Option<PathBuf>,
}

/// What has to be known of `/etc/passwd` and `/etc/group`. Users of a directory service are not in there and are
/// written as numbers: asking the C library for them would load its modules into the process with the keys.
pub(super) struct Directory {
    passwd: String,
    group: String,
}

impl Directory {
    /// The machine's own.
    pub fn read() -> Self {
        let text = |file| std::fs::read_to_string(file).unwrap_or_default();
        Self { passwd: text("/etc/passwd"), group: text("/etc/group") }
    }

    /// The account of a user, in its own group or in `group`.
    pub fn account(&self, user: &str, group: Option<u32>) -> Result<Account, &'static str> {
        let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let known =
            self.passwd.lines().map(fields).find(|entry| entry.len() > 5 && (entry[0] == user || entry[2] == user));
        let number = |text: &str| text.parse::<u32>().ok();
        let account = match known {
            Some(entry) => Account {
                name: user.to_owned(),
                uid: number(&entry[2]).ok_or("has no number in /etc/passwd")?,
                gid: group.or_else(|| number(&entry[3])).ok_or("has no group in /etc/passwd")?,
                home: Some(PathBuf::from(&entry[5])),
            },
            None => Account {
                name: user.to_owned(),
                uid: number(user).ok_or("is no user of /etc/passwd")?,
                gid: group.ok_or("is no user of /etc/passwd, so its `group` has to be written too")?,
                home: None,
            },
        };
        // The gate may run as root; what it runs there never may on purpose.
        if account.uid == 0 || account.gid == 0 {
            return Err("is root, from which nothing could be kept");
        }
        Ok(account)
    }

    /// The number of a group.
    pub fn group(&self, group: &str) -> Result<u32, &'static str> {
        let fields = |line: &str| {
            let mut fields = line.split(':');
            Some((fields.next()?.to_owned(), fields.nth(1)?.parse::<u32>().ok()?))
        };
        let known = self.group.lines().filter_map(fields).find(|(name, _)| name == group);
        known.map(|(_, gid)| gid).or_else(|| group.parse().ok()).ok_or("is no group of /etc/group")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number_and_root_never() {
        let directory = Directory {
            passwd: "root:x:0:0:root:/root:/bin/sh\nnotes:x:1200:1300:Notes:/srv/notes:/bin/false\n".to_owned(),
            group: "root:x:0:\nweb:x:33:notes\n".to_owned(),
        };
        let notes = directory.account("notes", None).unwrap();
        assert_eq!((notes.uid, notes.gid, notes.home), (1200, 1300, Some("/srv/notes".into())));
        let web = directory.group("web").unwrap();
        let notes = directory.account("1200", Some(web)).unwrap();
        assert_eq!((notes.name.as_str(), notes.uid, notes.gid), ("1200", 1200, 33));
        assert_eq!(directory.account("4000", Some(4001)).unwrap().gid, 4001);
        for (user, group) in [("4000", None), ("nobody here", None), ("root", None), ("0", Some(5)), ("notes", Some(0))]
        {
            assert!(directory.account(user, group).is_err(), "{user} {group:?}");
        }
        assert!(directory.group("nothing").is_err() && directory.group("77") == Ok(77));
    }
}
