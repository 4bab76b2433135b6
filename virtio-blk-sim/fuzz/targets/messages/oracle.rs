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
    /// Whether the server has REPLY_ACK negotiated; `None` if unknown.
    reply_ack: Option<bool>,
}

impl Oracle {
    /// The state of a new connection.
    pub(super) fn new() -> Self {
        Self { partial: Some(Vec::new()), partial_fds: false, asked: VecDeque::new(), reply_ack: Some(false) }
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
            let before = self.reply_ack;
            let waits_before = waits(&asked, before);
            // The reply may be for this message, or for a later one of the same kind that asked for
            // it.
            let is_own = asked.header.request == request && asked.header.needs_reply();
            let accepted = match reply {
                Reply::Ack(ack) if is_own && (before != Some(false) || ack.ok) => Some(ack.ok),
                _ => None,
            };
            self.reply_ack = after(&asked, before, accepted);
            let may_be_answered = waits_before != Some(false) || waits(&asked, self.reply_ack) != Some(false);
            if asked.header.request == request && may_be_answered {
                return;
            }
            assert_ne!(waits_before, Some(true), "no reply to {asked:?}, but one to request {request}");
        }
        panic!("a reply to request {request} that no message asked for: {reply:?}");
    }

    /// Checks that every message that expects a reply got one.
    pub(super) fn nobody_waits(&self) {
        let mut reply_ack = self.reply_ack;
        for asked in &self.asked {
            assert_ne!(waits(asked, reply_ack), Some(true), "no reply to {asked:?}");
            reply_ack = after(asked, reply_ack, None);
        }
    }
}

/// Returns whether the sender expects a reply to this message; `None` if unknown.
fn waits(asked: &Asked, reply_ack: Option<bool>) -> Option<bool> {
    let header = &asked.header;
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
    if header.needs_reply() { reply_ack } else { Some(false) }
}

/// Returns the state of REPLY_ACK after this message was executed or refused.
fn after(asked: &Asked, reply_ack: Option<bool>, accepted: Option<bool>) -> Option<bool> {
    let header = &asked.header;
    if header.request != Code::SetProtocolFeatures.number() {
        return reply_ack;
    }
    match Request::parse(header, &asked.body, Vec::new()) {
        Ok(Request::SetProtocolFeatures(features))
            if features.without(all_protocol()) == ProtocolFeatures::NONE =>
        {
            let new = features.contains(ProtocolFeatures::REPLY_ACK);
            match accepted {
                Some(false) => reply_ack,
                Some(true) => Some(new),
                // If surplus descriptors came with this message, it was refused.
                None if asked.had_fds && reply_ack != Some(new) => None,
                None => Some(new),
            }
        }
        _ => reply_ack,
    }
}
