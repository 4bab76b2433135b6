//! Who may connect to the socket of a disk.

use std::fmt;

use virtio_blk_sim::vhost_user::SocketFile;

use crate::accounts;

/// The owner of a socket, as `USER`, `USER:GROUP` or `:GROUP`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    user: Option<String>,
    group: Option<String>,
}

impl Owner {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let part = |text: &str| Some(text).filter(|text| !text.is_empty()).map(str::to_owned);
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (part(user), Some(part(group)?)),
            None => (Some(part(text)?), None),
        };
        let is_plain = |name: &Option<String>| {
            name.as_ref().is_none_or(|name| !name.contains(|c: char| c == ':' || c.is_control()))
        };
        (is_plain(&user) && is_plain(&group)).then_some(Self { user, group })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.user.as_deref().unwrap_or_default())?;
        self.group.iter().try_for_each(|group| write!(f, ":{group}"))
    }
}

/// Changes the owner and the mode of a socket. Until then, only this process may connect. Blocks as
/// the databases of users do. `option` returns how the error names a key. The error is one
/// sentence.
pub(crate) fn change(
    file: &SocketFile,
    owner: Option<&Owner>,
    mode: Option<u32>,
    option: impl Fn(&str) -> String,
) -> Result<(), String> {
    if let Some(owner) = owner {
        let key = option("socket-owner");
        let wrong = |error: &dyn fmt::Display| format!("{key} {owner}: {error}");
        let user = owner.user.as_deref().map(accounts::user).transpose().map_err(|error| wrong(&error))?;
        let group = owner.group.as_deref().map(accounts::group).transpose().map_err(|error| wrong(&error))?;
        file.set_owner(user.map(|user| user.uid), group).map_err(|error| wrong(&error))?;
    }
    if let Some(mode) = mode {
        let key = option("socket-mode");
        file.set_mode(mode).map_err(|error| format!("{key} {mode:o}: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_a_user_a_group_or_both() {
        for text in ["u", "u:g", ":g", "1000:0"] {
            assert_eq!(Owner::parse(text).unwrap().to_string(), text);
        }
        for text in ["", ":", "u:", "u:g:x", "a\nb"] {
            assert_eq!(Owner::parse(text), None, "{text:?}");
        }
    }
}
