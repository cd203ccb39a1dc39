//! A server whose process has no descriptors left: accepting rests instead of spinning, and goes on when there are some again.

mod common;

use common::*;
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn accepting_rests_while_descriptors_have_run_out_and_then_goes_on() {
    let server = start(PLENTY_BYTES);
    let mut bystander = connect(&server, 1);
    let clients: Vec<_> = (0..5).map(|_| socket(AddressFamily::INET, SocketType::STREAM, None).expect("socket")).collect();
    let before = getrlimit(Resource::Nofile);
    // Every number below this one is taken, so nothing can be opened.
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum: before.maximum }).expect("setrlimit");
    for client in &clients {
        rustix::net::connect(client, &server.address()).expect("the kernel connects what is not accepted yet");
    }
    wait_until(&server, "accepting rests", |stats| stats.accepts_paused >= 2);
    put(&mut bystander, 1, 0..10, 1);
    assert!(get(&mut bystander, 3, 1).is_ok());
    assert_eq!(server.stats().links, 1);
    setrlimit(Resource::Nofile, before).expect("setrlimit");
    wait_until(&server, "all accepted", |stats| stats.links == 6);
    drop((clients, bystander));
    assert_nothing_leaks(server);
}
