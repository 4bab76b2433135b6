//! The device status register (protocol feature STATUS).

use virtio_blk_sim::vhost_user::{FrontendError, ProtocolFeatures};

use super::client::{Client, ClientOptions};
use super::server::{Setup, TestServer};
use super::{Watchdog, default_options, driver, exercise};

const ACKNOWLEDGE_AND_DRIVER: u8 = 1 | 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;

fn options() -> ClientOptions {
    let options = default_options();
    ClientOptions { protocol: options.protocol.map(|wanted| wanted | ProtocolFeatures::STATUS), ..options }
}

#[test]
fn features_ok_stays_only_if_the_features_were_accepted() {
    let _watchdog = Watchdog::new("features_ok_stays_only_if_the_features_were_accepted");
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), options()).unwrap();
    let frontend = client.frontend();
    assert_eq!(frontend.get_status().unwrap(), 0);
    // The client has negotiated features.
    frontend.set_status(ACKNOWLEDGE_AND_DRIVER | FEATURES_OK).unwrap();
    assert_eq!(frontend.get_status().unwrap(), ACKNOWLEDGE_AND_DRIVER | FEATURES_OK);
    let refused = frontend.set_features(1 << 32 | 1 << 63);
    assert!(matches!(refused, Err(FrontendError::Refused { .. })), "{refused:?}");
    frontend.set_status(ACKNOWLEDGE_AND_DRIVER | FEATURES_OK).unwrap();
    assert_eq!(frontend.get_status().unwrap(), ACKNOWLEDGE_AND_DRIVER);
}

#[test]
fn status_0_stops_the_rings_until_they_are_set_up_again() {
    let _watchdog = Watchdog::new("status_0_stops_the_rings_until_they_are_set_up_again");
    for threads in [0, 1] {
        let server = TestServer::new(Setup { threads, ..Setup::default() });
        let mut client = Client::connect(server.socket(), options()).unwrap();
        let mut driver = driver(&mut client, 0);
        client.frontend().set_status(ACKNOWLEDGE_AND_DRIVER | FEATURES_OK | DRIVER_OK).unwrap();
        exercise(&mut driver, 100);
        client.frontend().set_status(0).unwrap();
        assert_eq!(client.frontend().get_status().unwrap(), 0);
        assert_eq!(server.ask(|server, _| server.stats()), [], "no ring may run");
        client.set_base(0, 100);
        client.start(0).unwrap();
        client.frontend().set_status(ACKNOWLEDGE_AND_DRIVER | FEATURES_OK | DRIVER_OK).unwrap();
        exercise(&mut driver, 100);
    }
}

#[test]
fn without_the_feature_it_is_refused() {
    let _watchdog = Watchdog::new("without_the_feature_it_is_refused");
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    assert!(client.frontend().set_status(1).is_err());
}
