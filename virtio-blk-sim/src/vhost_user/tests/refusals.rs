//! The replies to refused messages: a frontend must never wait for a reply that does not come.

use super::*;

const REPLY_ACK: ProtocolFeatures = ProtocolFeatures::REPLY_ACK;

/// Requests whose reply cannot express an error.
const HOPELESS: [Code; 11] = [
    Code::GetFeatures,
    Code::GetVringBase,
    Code::GetProtocolFeatures,
    Code::GetQueueNum,
    Code::GetMaxMemSlots,
    Code::GetStatus,
    Code::CreateCryptoSession,
    Code::PostcopyAdvise,
    Code::GetSharedObject,
    Code::SetDeviceStateFd,
    Code::GetShmemConfig,
];

#[test]
fn a_refused_request_is_acknowledged_only_if_requested_and_negotiated() {
    let special = [HOPELESS.as_slice(), &[Code::GetConfig, Code::GetInflightFd]].concat();
    let special: Vec<_> = special.into_iter().map(Code::number).collect();
    for request in (0..50).chain([u32::MAX]).filter(|number| !special.contains(number)) {
        let plain = Header::request(request, 0);
        let asking = plain.with_need_reply();
        assert!(matches!(Refusal::of(&plain, REPLY_ACK), Refusal::Silence));
        assert!(matches!(Refusal::of(&asking, ProtocolFeatures::NONE), Refusal::Silence));
        assert!(matches!(
            Refusal::of(&asking, REPLY_ACK),
            Refusal::Reply(Reply::Ack(Ack { request: r, ok: false })) if r == request
        ));
    }
}

#[test]
fn a_request_whose_reply_can_express_an_error_gets_that_reply() {
    for features in [ProtocolFeatures::NONE, REPLY_ACK] {
        let config = Header::request(Code::GetConfig.number(), 12);
        let inflight = Header::request(Code::GetInflightFd.number(), 24);
        for (config, inflight) in [(config, inflight), (config.with_need_reply(), inflight.with_need_reply())]
        {
            let Refusal::Reply(Reply::Config(data)) = Refusal::of(&config, features) else {
                panic!("no config")
            };
            assert!(data.data.is_empty());
            let Refusal::Reply(Reply::Inflight(region, None)) = Refusal::of(&inflight, features) else {
                panic!("no region")
            };
            assert_eq!(region, Inflight::NONE);
        }
    }
}

#[test]
fn a_request_whose_reply_cannot_express_an_error_closes_the_connection() {
    for code in HOPELESS {
        let header = Header::request(code.number(), 0);
        for header in [header, header.with_need_reply()] {
            assert!(matches!(Refusal::of(&header, REPLY_ACK), Refusal::Close), "{code}");
        }
    }
    for code in Code::ALL {
        assert!(
            matches!(Refusal::of(&Header::reply(code.number(), 0), REPLY_ACK), Refusal::Close),
            "a reply to {code}"
        );
    }
}

#[test]
fn every_refused_request_with_a_reply_gets_an_answer_or_a_close() {
    for request in requests(|| Canary::new().fd()).into_iter().filter(Request::has_reply) {
        let code = request.code();
        let header = Header::request(code.number(), 0);
        let refusal = Refusal::of(&header, ProtocolFeatures::LOG_SHMFD);
        assert!(!matches!(refusal, Refusal::Silence), "{code}");
        // Without LOG_SHMFD, no frontend waits for an answer to SET_LOG_BASE.
        let refusal = Refusal::of(&header, ProtocolFeatures::NONE);
        assert_eq!(matches!(refusal, Refusal::Silence), code == Code::SetLogBase, "{code}");
    }
}
