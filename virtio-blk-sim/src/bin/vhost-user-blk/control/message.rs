//! The form of requests, answers and the greeting.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::refusal::{Class, Refusal};

/// A request.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// Comes back with the answer, as it was written.
    pub(super) id: Option<&'a RawValue>,
    pub(super) command: Result<Command<'a>, Refusal>,
}

/// A command that was not looked up yet.
#[derive(Debug)]
pub(super) struct Command<'a> {
    pub(super) name: String,
    /// A JSON value of any kind.
    pub(super) arguments: Option<&'a RawValue>,
}

/// The members of an object.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object such as {\"execute\": \"list-disks\"}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        from.deserialize_map(Collect)
    }
}

fn invalid(why: impl fmt::Display) -> Refusal {
    Refusal::new(Class::InvalidRequest, why)
}

impl<'a> Request<'a> {
    /// Parses a line. `None` if it is empty.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let refused = |why: Refusal| Some(Self { id: None, command: Err(why) });
        let Ok(text) = std::str::from_utf8(line) else {
            return refused(invalid("the line is not UTF-8"));
        };
        if text.trim_ascii().is_empty() {
            return None;
        }
        match serde_json::from_str(text) {
            Ok(Members(members)) => Some(Self::of_members(&members)),
            Err(error) => refused(invalid(format_args!("the line is no request: {error}"))),
        }
    }

    fn of_members(members: &[(String, &'a RawValue)]) -> Self {
        let known = ["execute", "arguments", "id"];
        let find = |wanted: &str| members.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
        let command = || {
            for (index, (name, _)) in members.iter().enumerate() {
                if !known.contains(&name.as_str()) {
                    return Err(invalid(format_args!(
                        "a request has the members execute, arguments and id, and not {name:?}"
                    )));
                }
                if members.iter().take(index).any(|(earlier, _)| earlier == name) {
                    return Err(invalid(format_args!("the request has two members {name:?}")));
                }
            }
            let execute = find("execute").ok_or_else(|| invalid("a request needs the member \"execute\""))?;
            let name = serde_json::from_str(execute.get());
            let name = name.map_err(|_| invalid("\"execute\" is the name of a command, a string"))?;
            Ok(Command { name, arguments: find("arguments") })
        };
        Self { id: find("id"), command: command() }
    }
}

impl Command<'_> {
    /// The arguments of this command. If there are none, this is an empty object.
    pub(super) fn arguments<T: serde::de::DeserializeOwned>(&self) -> Result<T, Refusal> {
        let text = self.arguments.map_or("{}", RawValue::get);
        if !text.starts_with('{') {
            return Err(invalid("\"arguments\" is an object"));
        }
        serde_json::from_str(text).map_err(|error| {
            let error = error.to_string();
            // The place in the arguments helps nobody who does not write them by hand.
            let (why, _) = error.rsplit_once(" at line ").unwrap_or((&error, ""));
            invalid(format_args!("the arguments of {}: {why}", self.name))
        })
    }
}

/// The first line that a client gets.
pub(super) fn greeting() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("{{\"vhost-user-blk\": {{\"version\": \"{version}\", \"capabilities\": [\"events\"]}}}}\n")
}

/// The answer to a request. `Ok` is a JSON value.
pub(super) fn answer(outcome: Result<&str, &Refusal>, id: Option<&RawValue>) -> String {
    let body = match outcome {
        Ok(value) => format!("\"return\": {value}"),
        Err(Refusal { class, description }) => {
            let description = quoted(description);
            format!("\"error\": {{\"class\": \"{class:?}\", \"desc\": {description}}}")
        }
    };
    let id = id.map_or(String::new(), |id| format!(", \"id\": {id}"));
    format!("{{{body}{id}}}\n")
}

/// A JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
