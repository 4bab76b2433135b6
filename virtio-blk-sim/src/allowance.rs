//! How often a peer gets work done: a token bucket, and what is counted and logged about it.
//!
//! A peer that has used up its allowance is throttled: nothing more is read from its socket until
//! the pause is over. The pause is long enough for a few tokens. A peer that is always throttled
//! then causes a few wake-ups a second with some work each, instead of one for each token.

use std::cell::Cell;
use std::time::Duration;

use crate::token_bucket::TokenBucket;

const SECOND_NS: u64 = 1_000_000_000;

/// The numbers of an [`Allowance`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Tokens per second, on average. 0 is no limit.
    pub(crate) rate: u64,
    /// Tokens that can be used at once, after a time without use.
    pub(crate) burst: u64,
    /// Tokens that a pause brings, at least.
    pub(crate) pause: u64,
}

/// What a peer, or all peers of a device, may use. Lives on one loop.
#[derive(Debug)]
pub(crate) struct Allowance {
    terms: Terms,
    bucket: TokenBucket,
    pauses: Cell<u64>,
    /// A pause was announced, and the bucket has not been full since.
    is_announced: Cell<bool>,
}

/// How long nothing is done for the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) length: Duration,
    /// The first one since the allowance was last complete: worth a line of the log.
    pub(crate) is_first: bool,
}

impl Allowance {
    /// A complete allowance.
    pub(crate) fn new(terms: Terms) -> Self {
        let bucket = TokenBucket::default();
        let burst_ns = terms.burst.saturating_mul(SECOND_NS) / terms.rate.max(1);
        bucket.set(Some(terms.rate), burst_ns);
        Self { terms, bucket, pauses: Cell::new(0), is_announced: Cell::new(false) }
    }

    /// One that is never used up.
    pub(crate) fn unlimited() -> Self {
        Self::new(Terms { rate: 0, burst: 0, pause: 0 })
    }

    pub(crate) fn terms(&self) -> Terms {
        self.terms
    }

    /// Returns true if the peer has to pause. `now_ns` is the time of any clock that goes forward,
    /// always of the same one.
    pub(crate) fn is_used_up(&self, now_ns: u64) -> bool {
        self.bucket.wait_ns(now_ns) > 0
    }

    /// Charges what was done.
    pub(crate) fn charge(&self, tokens: u64, now_ns: u64) {
        if self.bucket.is_full(now_ns) {
            self.is_announced.set(false);
        }
        self.bucket.charge(tokens, now_ns);
    }

    /// Begins a pause if the allowance is used up, and counts it.
    pub(crate) fn pause(&self, now_ns: u64) -> Option<Pause> {
        let wait_ns = Some(self.bucket.wait_ns(now_ns)).filter(|wait_ns| *wait_ns > 0)?;
        self.pauses.set(self.pauses.get() + 1);
        let length = Duration::from_nanos(wait_ns.saturating_add(self.bucket.gained_in_ns(self.terms.pause)));
        Some(Pause { length, is_first: !self.is_announced.replace(true) })
    }

    /// How many pauses there were.
    pub(crate) fn pauses(&self) -> u64 {
        self.pauses.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { rate: 100, burst: 50, pause: 10 };

    /// A peer that asks for one token after the other until `end_ns`. Returns how many it got, and
    /// how many pauses were announced.
    fn greedy(allowance: &Allowance, begin_ns: u64, end_ns: u64) -> (u64, u64) {
        let (mut now, mut got, mut announced) = (begin_ns, 0, 0);
        while now < end_ns {
            match allowance.pause(now) {
                Some(pause) => {
                    now += pause.length.as_nanos() as u64;
                    announced += u64::from(pause.is_first);
                }
                None => {
                    allowance.charge(1, now);
                    got += 1;
                }
            }
        }
        (got, announced)
    }

    #[test]
    fn a_burst_does_not_pause_and_the_token_after_it_does() {
        let allowance = Allowance::new(TERMS);
        for _ in 0..TERMS.burst {
            allowance.charge(1, SECOND_NS);
            assert!(!allowance.is_used_up(SECOND_NS));
        }
        assert_eq!(allowance.pause(SECOND_NS), None);
        allowance.charge(1, SECOND_NS);
        assert!(allowance.is_used_up(SECOND_NS));
        // The debt of one token, and ten more.
        let length = Duration::from_millis(110);
        assert_eq!(allowance.pause(SECOND_NS), Some(Pause { length, is_first: true }));
        assert_eq!(allowance.pauses(), 1);
        assert!(!allowance.is_used_up(SECOND_NS + length.as_nanos() as u64));
    }

    #[test]
    fn a_greedy_peer_gets_the_rate_in_few_pieces() {
        let allowance = Allowance::new(TERMS);
        let (got, announced) = greedy(&allowance, SECOND_NS, 11 * SECOND_NS);
        assert!((1_000..=1_061).contains(&got), "{got}");
        assert_eq!(announced, 1);
        assert!((80..=101).contains(&allowance.pauses()), "{}", allowance.pauses());
    }

    #[test]
    fn a_pause_is_announced_again_after_the_bucket_was_full() {
        let allowance = Allowance::new(TERMS);
        assert_eq!(greedy(&allowance, SECOND_NS, 2 * SECOND_NS).1, 1);
        // It gains 50 tokens in half a second.
        assert_eq!(greedy(&allowance, 2 * SECOND_NS + SECOND_NS / 4, 3 * SECOND_NS).1, 0);
        assert_eq!(greedy(&allowance, 4 * SECOND_NS, 5 * SECOND_NS).1, 1);
    }
}
