//! The instances' own messages: no bytes panic, and a message that is read is written the same again.

use bytes::Bytes;
use syncline::fanout::wire::{self, Wire};

/// Input: a message.
pub(super) fn check(data: &[u8]) {
    let message = Bytes::copy_from_slice(data);
    match wire::decode(message.clone()) {
        Err(_) => {}
        Ok(Wire::Changes(epoch, changes)) => {
            assert_eq!(wire::changes(epoch, changes.iter()), message);
        }
        Ok(Wire::Event(room, frame)) => assert_eq!(wire::event(&room, &frame), message),
        Ok(Wire::Signal(signal)) => {
            let written = wire::signal(&signal);
            let Ok(Wire::Signal(again)) = wire::decode(written.clone()) else {
                panic!("{written:?} is not read")
            };
            assert_eq!(wire::signal(&again), written);
        }
    }
}
