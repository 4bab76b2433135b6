//! What the server can be expected to answer: kept account of from the bytes that were sent, by the specification alone.

use std::collections::VecDeque;

use virtio_blk_sim::vhost_user::{
    Code, HEADER_SIZE, Header, MAX_BODY_SIZE, ProtocolFeatures, Reply, Request,
};

use super::all_protocol;

/// A message that was sent whole.
#[derive(Debug)]
struct Asked {
    header: Header,
    /// None that makes the server's reaction to a known request doubtful.
    body: Vec<u8>,
    had_fds: bool,
}

/// The account of one connection.
pub(super) struct Oracle {
    /// Sent and not yet a whole message; `None` behind a header that ends the stream.
    partial: Option<Vec<u8>>,
    partial_fds: bool,
    asked: VecDeque<Asked>,
    /// REPLY_ACK as the server sees it; `None` where it is not known.
    reply_ack: Option<bool>,
}

impl Oracle {
    /// Nothing has been sent.
    pub(super) fn new() -> Self {
        Self { partial: Some(Vec::new()), partial_fds: false, asked: VecDeque::new(), reply_ack: Some(false) }
    }

    /// Keeps account of what the server can be expected to answer.
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
            // What makes no sense, with or without descriptors, is refused in words.
            if let Err(error) = Request::parse(&header, body, Vec::new()) {
                assert!(error.to_string().len() > 20, "{error}");
            }
            // Which of several messages in a piece the descriptors belong to is the kernel's business.
            self.asked.push_back(Asked { header, body: body.to_vec(), had_fds: self.partial_fds });
            partial.drain(..HEADER_SIZE + size);
            self.partial_fds = had_fds && !partial.is_empty();
        }
    }

    /// Looks whether somebody waits for this answer, and nobody for one before it.
    pub(super) fn answered(&mut self, request: u32, reply: &Reply) {
        while let Some(asked) = self.asked.pop_front() {
            let before = self.reply_ack;
            let waits_before = waits(&asked, before);
            // The answer to this message, or to a later one of the same kind that asked for it.
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
            assert_ne!(
                waits_before,
                Some(true),
                "the answer to {asked:?} is left out: {request} is answered"
            );
        }
        panic!("request {request} is answered, which nobody has asked: {reply:?}");
    }

    /// Checks that every message that waits for an answer has got it.
    pub(super) fn nobody_waits(&self) {
        let mut reply_ack = self.reply_ack;
        for asked in &self.asked {
            assert_ne!(waits(asked, reply_ack), Some(true), "nobody answers {asked:?}");
            reply_ack = after(asked, reply_ack, None);
        }
    }
}

/// Whether the sender waits for an answer to this; `None` where it depends on what is not known.
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

/// REPLY_ACK when this message has been carried out, or refused.
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
                // Descriptors that do not belong there would have had it refused.
                None if asked.had_fds && reply_ack != Some(new) => None,
                None => Some(new),
            }
        }
        _ => reply_ack,
    }
}
