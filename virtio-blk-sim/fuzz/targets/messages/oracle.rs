//! Predicts the replies of the server, from the bytes that were sent and from the specification
//! only.

use std::collections::VecDeque;

use virtio_blk_sim::vhost_user::{
    Code, HEADER_SIZE, Header, MAX_BODY_SIZE, ProtocolFeatures, Reply, Request,
};

use super::all_protocol;

/// A complete message that was sent.
#[derive(Debug)]
struct Asked {
    header: Header,
    /// The body of the message.
    body: Vec<u8>,
    had_fds: bool,
}

/// The state of one connection.
pub(super) struct Oracle {
    /// Bytes of an incomplete message; `None` after a header that ends the stream.
    partial: Option<Vec<u8>>,
    partial_fds: bool,
    asked: VecDeque<Asked>,
    negotiated: Negotiated,
}

/// Whether the server has negotiated these protocol features; `None` if unknown.
#[derive(Debug, Clone, Copy)]
struct Negotiated {
    reply_ack: Option<bool>,
    log_shmfd: Option<bool>,
}

impl Oracle {
    /// The state of a new connection.
    pub(super) fn new() -> Self {
        let negotiated = Negotiated { reply_ack: Some(false), log_shmfd: Some(false) };
        Self { partial: Some(Vec::new()), partial_fds: false, asked: VecDeque::new(), negotiated }
    }

    /// Records bytes that were sent.
    pub(super) fn sent(&mut self, bytes: &[u8], had_fds: bool) {
        let Some(partial) = &mut self.partial else { return };
        partial.extend_from_slice(bytes);
        self.partial_fds |= had_fds;
        while let Some((header, rest)) = partial.split_first_chunk::<HEADER_SIZE>() {
            let header = Header::decode(header);
            let size = header.size as usize;
            if !header.is_version_1() || size > MAX_BODY_SIZE {
                self.partial = None;
                return;
            }
            let Some(body) = rest.get(..size) else { return };
            // Every parse error has a message.
            if let Err(error) = Request::parse(&header, body, Vec::new()) {
                assert!(error.to_string().len() > 20, "{error}");
            }
            // If one send has several messages, it is not known here to which of them the
            // descriptors belong.
            self.asked.push_back(Asked { header, body: body.to_vec(), had_fds: self.partial_fds });
            partial.drain(..HEADER_SIZE + size);
            self.partial_fds = had_fds && !partial.is_empty();
        }
    }

    /// Checks that a message waits for this reply, and that no earlier message does.
    pub(super) fn answered(&mut self, request: u32, reply: &Reply) {
        while let Some(asked) = self.asked.pop_front() {
            let before = self.negotiated;
            let waits_before = waits(&asked, before);
            // The reply may be for this message, or for a later one of the same kind that asked for
            // it.
            let is_own = asked.header.request == request && asked.header.needs_reply();
            let accepted = match reply {
                Reply::Ack(ack) if is_own && (before.reply_ack != Some(false) || ack.ok) => Some(ack.ok),
                _ => None,
            };
            self.negotiated = after(&asked, before, accepted);
            let may_be_answered =
                waits_before != Some(false) || waits(&asked, self.negotiated) != Some(false);
            if asked.header.request == request && may_be_answered {
                return;
            }
            assert_ne!(waits_before, Some(true), "no reply to {asked:?}, but one to request {request}");
        }
        panic!("a reply to request {request} that no message asked for: {reply:?}");
    }

    /// Checks that every message that expects a reply got one.
    pub(super) fn nobody_waits(&self) {
        let mut negotiated = self.negotiated;
        for asked in &self.asked {
            assert_ne!(waits(asked, negotiated), Some(true), "no reply to {asked:?}");
            negotiated = after(asked, negotiated, None);
        }
    }
}

/// Returns whether the sender expects a reply to this message; `None` if unknown.
fn waits(asked: &Asked, negotiated: Negotiated) -> Option<bool> {
    let header = &asked.header;
    // "VHOST_USER_SET_LOG_BASE (if VHOST_USER_PROTOCOL_F_LOG_SHMFD)" is among the messages that
    // require a reply (specification, "Communication").
    if header.request == Code::SetLogBase.number() && negotiated.log_shmfd != Some(false) {
        return negotiated.log_shmfd;
    }
    let has_answer = matches!(
        Code::from_number(header.request),
        Some(
            Code::GetFeatures
                | Code::GetVringBase
                | Code::GetProtocolFeatures
                | Code::GetQueueNum
                | Code::GetConfig
                | Code::GetInflightFd
                | Code::GetMaxMemSlots
        )
    );
    if has_answer {
        return Some(true);
    }
    if header.needs_reply() { negotiated.reply_ack } else { Some(false) }
}

/// Returns what is negotiated after this message was executed or refused.
fn after(asked: &Asked, before: Negotiated, accepted: Option<bool>) -> Negotiated {
    let header = &asked.header;
    if header.request != Code::SetProtocolFeatures.number() {
        return before;
    }
    match Request::parse(header, &asked.body, Vec::new()) {
        Ok(Request::SetProtocolFeatures(features))
            if features.without(all_protocol()) == ProtocolFeatures::NONE =>
        {
            let set = |before, feature| {
                let new = features.contains(feature);
                match accepted {
                    Some(false) => before,
                    Some(true) => Some(new),
                    // If surplus descriptors came with this message, it was refused.
                    None if asked.had_fds && before != Some(new) => None,
                    None => Some(new),
                }
            };
            Negotiated {
                reply_ack: set(before.reply_ack, ProtocolFeatures::REPLY_ACK),
                log_shmfd: set(before.log_shmfd, ProtocolFeatures::LOG_SHMFD),
            }
        }
        _ => before,
    }
}
